// A causal lmkit bundle in onnxruntime-web: greedy tokens behind a prompt's ids.
// There is nothing of Node's in this file, so a page in a browser can import it as it is.
import * as ort from "onnxruntime-web";

// Open a bundle.
//   manifest: what lmkit.json says, parsed
//   read:     (name) -> the file's bytes, as a Uint8Array or a promise of one; in a page, a fetch
//   precision: one of the manifest's; its default one if left out
export async function open(manifest, read, precision = manifest.precision) {
  const kept = manifest.precisions[precision];
  if (!kept) {
    throw new Error(`no precision '${precision}'; there are ${Object.keys(manifest.precisions).join(", ")}`);
  }
  if (!manifest.families.includes("causal") || manifest.graph.prefix) {
    throw new Error("this is for causal bundles without a soft prompt");
  }
  const file = kept.files?.["model.onnx"] ?? "model.onnx";
  const graph = await read(file);
  const externalData = await Promise.all(
    weightsOf(graph, manifest).map(async (path) => ({ path, data: await read(path) })),
  );
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], externalData });
  return new Causal(manifest, session);
}

// The files that a graph's weights are in. Precisions share what is the same in them, so a bundle of
// several may have it in another one's file; one that was exported alone has a file of its own.
function weightsOf(graph, manifest) {
  const text = new TextDecoder("latin1").decode(graph);
  return Object.keys(manifest.files).filter((name) => name.endsWith(".data") && text.includes(name));
}

class Causal {
  constructor(manifest, session) {
    this.graph = manifest.graph;
    this.stop = new Set(manifest.tokens.stop);
    this.session = session;
  }

  // Yield the ids that follow a prompt, the one that ends the answer included.
  async *greedy(promptIds, maxNewTokens) {
    let { ids, past, length } = { ids: promptIds, past: this.nothingRead(), length: 0 };
    for (let count = 0; count < maxNewTokens; count++) {
      const found = await this.session.run({ ...this.inputs(ids, length), ...past });
      length += ids.length;
      past = Object.fromEntries(
        Object.keys(past).map((name) => [name, found[name.replace("past_key_values", "present")]]),
      );
      const token = likeliest(found.logits);
      yield token;
      if (this.stop.has(token)) return;
      ids = [token];
    }
  }

  // The new ids, where they stand, and that all ids up to them are seen.
  inputs(ids, before) {
    const whole = (numbers, size) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, size]);
    return {
      input_ids: whole(ids, ids.length),
      position_ids: whole(ids.map((_, place) => before + place), ids.length),
      attention_mask: whole(Array(before + ids.length).fill(1), before + ids.length),
    };
  }

  // The keys and values of an empty text; each step's are the next one's past.
  nothingRead() {
    const names = this.session.inputNames.filter((name) => name.startsWith("past_key_values."));
    const shape = [1, this.graph.n_kv_heads, 0, this.graph.head_size];
    return Object.fromEntries(
      names.map((name) => [name, new ort.Tensor("float32", new Float32Array(0), shape)]),
    );
  }
}

// The token with the largest logit at the last place; logits are float32 [1, S, V].
function likeliest(logits) {
  const [, places, size] = logits.dims;
  const last = logits.data.subarray((places - 1) * size, places * size);
  let best = 0;
  for (let token = 1; token < size; token++) if (last[token] > last[best]) best = token;
  return best;
}
