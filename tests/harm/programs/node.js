// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Workers, promises, exceptions through C++ and compression. usage: node.js ROUNDS
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { gzipSync, gunzipSync } = require('zlib');
const { createHash } = require('crypto');

function work(rounds) {
  let caught = 0;
  for (let i = 0; i < 101 * rounds; i++) {
    try {
      [3, 1, 2].sort(() => JSON.parse('{'));
    } catch (error) {
      caught += error instanceof SyntaxError;
    }
  }
  const text = 'ubpf'.repeat(997);
  return [caught, gunzipSync(gzipSync(text)).toString() === text, createHash('sha256').update(text).digest('hex')];
}

async function main() {
  const rounds = Number(process.argv[2]);
  const workers = [1, 2].map(() => new Promise((resolve) => new Worker(__filename, { argv: [rounds] }).on('message', resolve)));
  console.log(work(rounds), await Promise.all(workers));
}

if (isMainThread) main();
else parentPort.postMessage(work(Number(process.argv[2])));
