// Writes dist/esm: ES modules with the names of the CommonJS modules. There is one copy of the code, so that an identity or
// an error is the same for `import` and `require`.
const { mkdirSync, readdirSync, writeFileSync } = require("node:fs");

const generated = readdirSync("dist/src/gen/latchkey/v1").filter((name) => name.endsWith(".js"));
const entries = [
  ...["index", "connect", "express", "fastify", "nest"].map((name) => [name, `../src/${name}.js`]),
  ...generated.map((name) => [`v1/${name.slice(0, -3)}`, `../../src/gen/latchkey/v1/${name}`]),
];
mkdirSync("dist/esm/v1", { recursive: true });
for (const [name, source] of entries) {
  const names = Object.keys(require(require("node:path").resolve("dist/esm", name, "..", source)));
  writeFileSync(`dist/esm/${name}.mjs`, `export { ${names.join(", ")} } from "${source}";\n`);
  writeFileSync(`dist/esm/${name}.d.mts`, `export * from "${source}";\n`);
}
