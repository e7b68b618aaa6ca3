// What the scripts share. Parameters come as JSON in the first argument, and what is decided later as lines of JSON on
// standard input; every event leaves as one line of JSON on standard output. The end of standard input ends a script.
import {createInterface} from 'node:readline';

export const params = JSON.parse(process.argv[2]);

export function tell(type, rest = {}) {
  process.stdout.write(`${JSON.stringify({type, ...rest})}\n`);
}

const told = [];
const waiting = [];
const input = createInterface({input: process.stdin});
input.on('line', (line) => {
  const instruction = JSON.parse(line);
  const first = waiting.shift();
  if (first) {
    first(instruction);
  } else {
    told.push(instruction);
  }
});

// instruction is the next line of standard input.
export function instruction() {
  if (told.length > 0) {
    return Promise.resolve(told.shift());
  }
  return new Promise((resolve) => waiting.push(resolve));
}

export function atEnd(end) {
  input.on('close', end);
}
