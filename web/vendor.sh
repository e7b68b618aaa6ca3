#!/bin/sh
# Generates third_party/ from the packages that package-lock.json pins. Needed only after a change of
# versions: the result is committed, so that building and running Parley needs neither npm nor a
# network.
set -eu
cd "$(dirname "$0")"

npm ci --ignore-scripts --no-audit --no-fund

rm -rf third_party
mkdir third_party

# The source maps are not served, so the references to them are removed: they would be a 404 in every
# developer console. Without -n, gzip would write the time into the file, and each run would be a
# change in git.
take() {
	sed '/^\/\/# sourceMappingURL=/d' "node_modules/$1" | gzip -9n >"third_party/$(basename "$1").gz"
}
take graphiql/graphiql.min.css
take graphiql/graphiql.min.js
take graphql-ws/umd/graphql-ws.min.js
take react-dom/umd/react-dom.production.min.js
take react/umd/react.production.min.js

# The bundle of GraphiQL contains most of its dependencies, so all packages of the tree are listed.
# Equal licence texts are printed once.
node - >third_party/LICENSES.txt <<'EOF'
const fs = require('fs');
const packagesByText = new Map();
const tree = JSON.parse(fs.readFileSync('package-lock.json', 'utf8')).packages;
for (const dir of Object.keys(tree).filter((dir) => dir !== '').sort()) {
  const {name, version, license, author} = JSON.parse(fs.readFileSync(`${dir}/package.json`, 'utf8'));
  const file = fs.readdirSync(dir).find((entry) => /^licen[cs]e/i.test(entry));
  const by = typeof author === 'object' ? author.name : author;
  const text = file ? fs.readFileSync(`${dir}/${file}`, 'utf8').replaceAll('\r', '').trim()
    : `${license}${by ? `, by ${by}` : ''} (the package contains no licence text)`;
  packagesByText.set(text, [...(packagesByText.get(text) ?? []), `${name} ${version} (${license})`]);
}
const parts = [...packagesByText].map(([text, packages]) => `${packages.join('\n')}\n\n${text}\n`);
console.log(['The libraries of the playground, and their licences.\n', ...parts].join(`\n${'-'.repeat(80)}\n\n`).trim());
EOF

# Every Go tool with "./..." would search it.
rm -rf node_modules
