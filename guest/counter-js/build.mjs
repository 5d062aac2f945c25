// Builds dist/counter-js.wasm, unless it is newer than all that it is made of.

import { mkdirSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { chdir } from 'node:process';

chdir(import.meta.dirname);

const component = 'dist/counter-js.wasm';
const wit = '../../wit';
const sources = [
  'build.mjs',
  'counter.js',
  'package.json',
  'package-lock.json',
  wit,
  ...readdirSync(wit, { recursive: true }).map((path) => join(wit, path)),
];

const changedAt = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

if (sources.some((source) => changedAt(source) >= changedAt(component))) {
  const { componentize } = await import('@bytecodealliance/componentize-js');
  const { component: bytes } = await componentize({
    sourcePath: resolve('counter.js'),
    witPath: resolve(wit),
    worldName: 'plugin',
    // All of them: the counter uses neither clocks nor chance, and what a guest prints is not kept.
    disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
  });
  mkdirSync(dirname(component), { recursive: true });
  // In one step, so that nobody meets half a component.
  writeFileSync(`${component}.new`, bytes);
  renameSync(`${component}.new`, component);
  console.log(`guest/counter-js/${component}: ${(bytes.length / 2 ** 20).toFixed(1)} MiB`);
}
