import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPublicAddress, reachOf } from '../../../../src/adapters/sources/host-rules.js';

const PUBLIC = ['1.1.1.1', '100.63.255.255', '172.32.0.1', '192.169.0.1', '223.255.255.255', '2606:4700::1111'];
const CLOSED = [
  '0.0.0.0',
  '10.1.2.3',
  '100.64.0.1',
  '127.0.0.1',
  '127.255.0.1',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::ffff:127.0.0.1',
  '::ffff:8.8.8.8',
  '64:ff9b::7f00:1',
  '2001::1',
  '2001:db8::1',
  '2002:7f00:1::',
  'fc00::1',
  'fe80::1',
  'ff02::1',
  'localhost',
  '',
];

test('only addresses of the public internet are public', () => {
  assert.deepEqual(PUBLIC.filter(isPublicAddress), PUBLIC);
  assert.deepEqual(CLOSED.filter(isPublicAddress), []);
});

const RULES = {
  hosts: [
    { host: 'a.example', port: null },
    { host: 'b.example', port: 8443 },
  ],
  privateHosts: [
    { host: '127.0.0.1', port: 9000 },
    { host: '::1', port: 9000 },
  ],
};

const REACHES: readonly (readonly [string, string])[] = [
  ['https://a.example/x', 'public'],
  ['http://A.example./x', 'public'],
  ['https://a.example:8443/x', 'refused'],
  ['https://sub.a.example/x', 'refused'],
  ['https://b.example:8443/x', 'public'],
  ['https://b.example/x', 'refused'],
  ['http://127.0.0.1:9000/x', 'any'],
  ['http://127.1:9000/x', 'any'],
  ['http://2130706433:9000/x', 'any'],
  ['http://127.0.0.1/x', 'refused'],
  ['http://[::1]:9000/x', 'any'],
  ['http://[0:0:0:0:0:0:0:1]:9000/x', 'any'],
];

for (const [url, reach] of REACHES) {
  test(`${url} is ${reach}`, () => {
    assert.equal(reachOf(new URL(url), RULES), reach);
  });
}
