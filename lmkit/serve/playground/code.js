// The same call from a shell and from Python. A key is never written into it.

import { address, key } from "./api.js";

export const needsKey = () => key.get() !== "";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`; // for a POSIX shell
const route = (task) => `v1/tasks/${encodeURIComponent(task.name)}`;

/** A value as Python writes it; JSON's strings are Python's, as long as no half of a pair stands alone. */
function python(value, indent = "") {
  const deeper = `${indent}    `;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    return value.length ? `[\n${value.map((one) => `${deeper}${python(one, deeper)},\n`).join("")}${indent}]` : "[]";
  }
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, deeper)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

function curl(task, record, query) {
  const lines = [`curl -s ${quoted(address(route(task), query).href)}`, "-H 'Content-Type: application/json'"];
  if (needsKey()) lines.push('-H "Authorization: Bearer $LMKIT_API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(record))}`);
  return lines.join(" \\\n  ");
}

function urllib(task, record, query) {
  const headers = needsKey()
    ? '{\n        "Content-Type": "application/json",\n        "Authorization": "Bearer " + os.environ["LMKIT_API_KEY"],\n    }'
    : '{"Content-Type": "application/json"}';
  return `import json
${needsKey() ? "import os\n" : ""}import urllib.request

record = ${python(record)}
request = urllib.request.Request(
    ${JSON.stringify(address(route(task), query).href)},
    data=json.dumps(record).encode(),
    headers=${headers},
)
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
print(answer["value"])`;
}

const OPENAI = new Set(["temperature", "top_p", "seed", "stop"]);

/** What a query's text is in a body: a truth value, a number, or itself. */
function typed(text) {
  if (text === "true" || text === "false") return text === "true";
  return Number.isNaN(Number(text)) ? text : Number(text);
}

function openai(task, record, query) {
  const given = {};
  for (const [name, text] of query) {
    const value = name === "stop" ? [...(given.stop ?? []), text] : typed(text);
    given[name === "max_new_tokens" ? "max_tokens" : name] = value;
  }
  const own = Object.entries(given).filter(([name]) => OPENAI.has(name) || name === "max_tokens");
  const extra = Object.fromEntries(Object.entries(given).filter(([name]) => !OPENAI.has(name) && name !== "max_tokens"));
  const messages = isChat(task) ? record[chatColumn(task).name] : [{ role: "user", content: record[task.columns[0].name] }];
  const lines = [
    `    model=${JSON.stringify(task.name)},`,
    `    messages=${python(messages, "    ")},`,
    ...own.map(([name, value]) => `    ${name}=${python(value, "    ")},`),
    ...(Object.keys(extra).length ? [`    extra_body=${python(extra, "    ")},`] : []),
    "    stream=True,",
  ];
  const apiKey = needsKey() ? 'os.environ["LMKIT_API_KEY"]' : '"none"';
  return `${needsKey() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(
    base_url=${JSON.stringify(address("v1").href)},
    api_key=${apiKey},
)
stream = client.chat.completions.create(
${lines.join("\n")}
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)`;
}

/** The column that holds a conversation, if a task has one. */
export const chatColumn = (task) => task.columns.find(({ type }) => type === "messages");
export const isChat = (task) => task.kind === "text" && chatColumn(task) !== undefined;

export const LANGUAGES = {
  curl: { fits: () => true, write: curl },
  python: { fits: () => true, write: urllib },
  openai: { fits: (task) => task.kind === "text" && (isChat(task) || task.columns.length === 1), write: openai },
};
