// Verifies access tokens as another service would: with the published keys, and the crypto of Node.js. Parameters: url, of the
// keys. Each instruction has a token.
import {createPublicKey, verify} from 'node:crypto';

import {emit, instruction, params} from './script.js';

const {keys} = await (await fetch(params.url)).json();

async function obey() {
  for (;;) {
    const {token} = await instruction();
    const [header, claims, signature] = token.split('.');
    const read = (part) => JSON.parse(Buffer.from(part, 'base64url'));
    const {alg, kid} = read(header);
    const jwk = keys.find((key) => key.kid === kid && key.alg === alg);
    const verified = jwk !== undefined && alg === 'EdDSA' && verify(
      null, Buffer.from(`${header}.${claims}`), createPublicKey({key: jwk, format: 'jwk'}), Buffer.from(signature, 'base64url'),
    );
    const {aud, ...rest} = read(claims);
    emit('verified', {verified, claims: {...rest, aud: [aud].flat().join()}, private: keys.some((key) => 'd' in key || 'k' in key)});
  }
}
obey();
