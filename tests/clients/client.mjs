// A client from docs/wire-format.md alone: node client.mjs HOST PORT NUMBER..., a line an image.
const [host, port, ...images] = process.argv.slice(2);
const packed = new Uint8Array(Math.ceil(images.length / 2));
images.forEach((image, i) => (packed[i >> 1] |= Number(image) << (i % 2 ? 0 : 4)));
const type = "application/octet-stream";
const response = await fetch(`http://${host}:${port}/predictions/diagonal_flip`, {
  method: "POST",
  headers: { "Content-Type": images.length % 2 ? `${type}; padding=4` : type, Accept: type },
  body: packed,
});
if (!response.ok) throw new Error(await response.text());
const floats = new DataView(await response.arrayBuffer());
for (let at = 0; at < floats.byteLength; at += 16)
  console.log([0, 4, 8, 12].map((i) => floats.getFloat32(at + i, true).toFixed(6)).join(" "));
