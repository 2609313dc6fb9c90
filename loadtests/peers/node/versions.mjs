// Print the versions of Node.js and of the packages named, in one line.
import { readFileSync } from 'node:fs';

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;
console.log(`Node.js ${process.version},`, process.argv.slice(2).map((name) => `${name} ${version(name)}`).join(', '));
