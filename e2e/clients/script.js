// The common part of all scripts. Parameters are JSON in the first argument. Instructions are lines of JSON on standard input,
// events are lines of JSON on standard output. The end of standard input ends a script.
import {createInterface} from 'node:readline';

export const params = JSON.parse(process.argv[2]);

export function emit(type, rest = {}) {
  process.stdout.write(`${JSON.stringify({type, ...rest})}\n`);
}

const queue = [];
const waiting = [];
const input = createInterface({input: process.stdin});
input.on('line', (line) => {
  const instruction = JSON.parse(line);
  const first = waiting.shift();
  if (first) {
    first(instruction);
  } else {
    queue.push(instruction);
  }
});

// Resolves to the next instruction.
export function instruction() {
  if (queue.length > 0) {
    return Promise.resolve(queue.shift());
  }
  return new Promise((resolve) => waiting.push(resolve));
}

export function atEnd(end) {
  input.on('close', end);
}
