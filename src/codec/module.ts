/** Turns the text of src/codec/wasm into WebAssembly that runs. */

/** The types of WebAssembly are the browser's, and not known here. */
declare const WebAssembly: {
  readonly Module: new (binary: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

const compiled = new Map<string, object>();

/** A new instance, with a memory of its own that is freed with it, of the module `wasm` in base64; compiled once a thread. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
export function instantiate<Exports>(wasm: string): Exports {
  let module = compiled.get(wasm);
  if (module === undefined) {
    module = new WebAssembly.Module(Buffer.from(wasm, 'base64'));
    compiled.set(wasm, module);
  }
  return new WebAssembly.Instance(module).exports as Exports;
}
