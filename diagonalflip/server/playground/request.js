// The request for what is on the page, to be copied.

import { $, bits, button, element } from "/playground/dom.js";
import { predictPath } from "/playground/service.js";
import { follow, state } from "/playground/state.js";

function programs() {
  const { image, version } = state;
  const url = location.origin + predictPath(version);
  const byte = image << 4;
  const octal = byte.toString(8).padStart(3, "0");
  return {
    curl: `curl ${url} \\\n  -H 'Content-Type: application/json' -d '{"images": [${image}]}'`,
    Python: "from diagonalflip import Client\n\n"
      + `with Client("${location.origin}", version="${version}") as client:\n    print(client.predict([${image}]))`,
    JavaScript: `const response = await fetch("${url}", {\n  method: "POST",\n`
      + `  headers: { "Content-Type": "application/json" },\n  body: JSON.stringify({ images: [${image}] }),\n});\n`
      + "const { predictions } = await response.json();",
    "Raw bytes": `# ${bits(image)} 0000 is the byte 0x${byte.toString(16).padStart(2, "0")}: the image, then 4 bits of padding\n`
      + `printf '\\${octal}' | curl ${url} \\\n  -H 'Content-Type: application/octet-stream; padding=4' `
      + "--data-binary @- | od -A n -t f4",
  };
}

async function copy(code, told) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    told.textContent = "Copied.";
  } catch { // browsers lend the clipboard only to pages of this host or over TLS
    getSelection().selectAllChildren(code);
    told.textContent = "Selected: press Ctrl+C.";
  }
}

export function startRequest() {
  const blocks = Object.keys(programs()).map((name) => {
    const code = element("pre", { class: "code", translate: "no", tabindex: 0, "aria-label": name });
    const told = element("output");
    const head = element("div", { class: "row" }, element("h3", {}, name),
      button("Copy", () => copy(code, told), { "aria-label": `Copy ${name}` }), told);
    $("requests").append(element("div", {}, head, code));
    return { name, code, told };
  });
  follow(() => {
    const texts = programs();
    for (const { name, code, told } of blocks) {
      code.textContent = texts[name];
      told.textContent = "";
    }
  });
}
