import assert from 'node:assert/strict';
import { test } from 'node:test';
import { strftime } from '../../../src/chat/strftime.js';

test('every directive, as C prints it in its own locale', () => {
  const date = new Date(2026, 2, 7, 15, 4, 5);
  const cases: readonly (readonly [format: string, text: string])[] = [
    ['%d %b %Y', '07 Mar 2026'],
    ['%A, %B %e; %a', 'Saturday, March  7; Sat'],
    ['%H:%M:%S %I %p', '15:04:05 03 PM'],
    ['%y-%m-%d %j %%', '26-03-07 066 %'],
    ['%-d/%-m %-I', '7/3 3'],
    ['plain', 'plain'],
  ];
  for (const [format, text] of cases) assert.equal(strftime(date, format), text);
  assert.equal(strftime(new Date(2026, 0, 1, 0, 0, 0), '%I %p %j %-H'), '12 AM 001 0');
});

test('a directive that it does not know is an error that names it', () => {
  for (const format of ['%Q', '%', '%-']) assert.throws(() => strftime(new Date(), format), /does not know/);
});
