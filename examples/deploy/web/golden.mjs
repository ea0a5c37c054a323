// Answer a bundle's golden prompts in onnxruntime-web, and compare with what lmkit wrote down.
//   node golden.mjs BUNDLE [PRECISION]      0: the same tokens, 1: others, or no fit bundle
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { open } from "./causal.mjs";

const [folder, precision] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node golden.mjs BUNDLE [PRECISION]");
  process.exit(2);
}
try {
  const read = (name) => readFile(join(folder, name));
  const manifest = JSON.parse(await read("lmkit.json"));
  const chosen = precision ?? manifest.precision;
  const model = await open(manifest, read, chosen);
  let [same, asked] = [0, 0];
  for (const [place, golden] of manifest.golden.entries()) {
    const wanted = manifest.precisions[chosen].golden?.[place] ?? golden.token_ids;
    if (!wanted.length) continue; // the model is not sure enough there for two machines to agree
    const started = performance.now();
    const found = [];
    for await (const token of model.greedy(golden.prompt_ids, wanted.length)) found.push(token);
    const equal = found.join() === wanted.join();
    same += equal;
    asked += 1;
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    console.log(`${equal ? "same" : "OTHER"}  ${found.length} tokens in ${seconds} s  ${found.join(" ")}`);
    if (!equal) console.log(`       lmkit wrote  ${wanted.join(" ")}`);
  }
  console.log(`${same} of ${asked} golden prompts answered with lmkit's tokens`);
  process.exit(same === asked ? 0 : 1);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exit(1);
}
