// Server-sent events out of a response's body.

/**
 * The `data` of each event, as text, however the bytes were cut on their way.
 * Source: the HTML standard, 9.2.6 "Interpreting an event stream".
 */
export async function* events(body) {
  // Not `body.pipeThrough(...)`: Chromium may collect such a pipe while it is being read.
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const held = !done && rest.endsWith("\r") ? "\r" : ""; // its line feed may be on the way
      const lines = rest.slice(0, rest.length - held.length).split(/\r\n|\n|\r/);
      rest = lines.pop() + held;
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
