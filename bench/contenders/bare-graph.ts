import { createHash } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import protobuf from 'protobufjs/minimal.js';
import type { PreparedModel } from '../../src/core/model-manifest.js';

/** Operators that do nothing for rows of the base: each passes its first input through. A CPU's graph has only the first. */
const ADAPTER_OPERATORS = new Set(['SegmentedEmbedding', 'SegmentedNorm', 'SegmentedLora', 'SegmentedHead']);
/** What tells the other operators that adapters may change their results. */
const ADAPTER_ATTRIBUTES = new Set(['site', 'head', 'norm']);
const OWN_DOMAIN = 'loramux';
const LENGTH_DELIMITED = 2;
/** Field numbers of onnx.proto. */
const MODEL_GRAPH = 7;
const GRAPH_NODE = 1;
const GRAPH_OUTPUT = 12;
const NODE = { input: 1, output: 2, type: 4, attribute: 5, domain: 7 } as const;
const VALUE_NAME = 1;
const ATTRIBUTE_NAME = 1;

interface Field {
  readonly number: number;
  readonly wireType: number;
  /** With its tag. */
  readonly raw: Uint8Array;
  /** Of length-delimited fields: what is inside. */
  readonly body: Uint8Array | null;
}

function fieldsOf(message: Uint8Array): Field[] {
  const reader = protobuf.Reader.create(message);
  const fields: Field[] = [];
  while (reader.pos < reader.len) {
    const start = reader.pos;
    const tag = reader.uint32();
    const body = (tag & 7) === LENGTH_DELIMITED ? reader.bytes() : null;
    if (body === null) reader.skipType(tag & 7);
    fields.push({ number: tag >>> 3, wireType: tag & 7, raw: message.subarray(start, reader.pos), body });
  }
  return fields;
}

function textsOf(fields: readonly Field[], number: number): string[] {
  return fields.filter((field) => field.number === number).map(({ body }) => Buffer.from(body ?? []).toString());
}

/** A length-delimited field around `body`. */
function wrap(number: number, body: Uint8Array): Uint8Array {
  return protobuf.Writer.create()
    .uint32((number << 3) | LENGTH_DELIMITED)
    .bytes(body)
    .finish();
}

/**
 * The decoder graph without anything for adapters: what operators for them would have written, their first input, is read
 * instead, and operators of the base are not told of adapters.
 */
export function withoutAdapters(model: Uint8Array): Uint8Array {
  const parts = fieldsOf(model).map((field) =>
    field.number === MODEL_GRAPH && field.body !== null ? wrap(MODEL_GRAPH, bareGraph(field.body)) : field.raw,
  );
  return Buffer.concat(parts);
}

function bareGraph(graph: Uint8Array): Uint8Array {
  const fields = fieldsOf(graph);
  const outputs = fields.filter(({ number }) => number === GRAPH_OUTPUT);
  /** Names to read instead, by the name that a dropped operator would have written. */
  const instead = new Map<string, string>();
  const kept: { raw: Uint8Array; fields: Field[] | null }[] = [];
  for (const field of fields) {
    const node = field.number === GRAPH_NODE && field.body !== null ? fieldsOf(field.body) : null;
    const [type = '', domain = ''] = node === null ? [] : [textsOf(node, NODE.type)[0], textsOf(node, NODE.domain)[0]];
    if (node !== null && domain === OWN_DOMAIN && ADAPTER_OPERATORS.has(type)) {
      const [input = ''] = textsOf(node, NODE.input);
      instead.set(textsOf(node, NODE.output)[0] ?? '', instead.get(input) ?? input);
    } else {
      kept.push({ raw: field.raw, fields: node });
    }
  }
  // The graph's outputs keep their names, so whoever feeds a dropped operator there writes under its name.
  const renamed = new Map<string, string>();
  for (const { body } of outputs) {
    const name = textsOf(fieldsOf(body ?? new Uint8Array()), VALUE_NAME)[0] ?? '';
    const source = instead.get(name);
    if (source !== undefined) renamed.set(source, name);
  }
  const name = (text: string): string => {
    const source = instead.get(text) ?? text;
    return renamed.get(source) ?? source;
  };
  return Buffer.concat(
    kept.map(({ raw, fields: node }) =>
      node === null ? raw : wrap(GRAPH_NODE, rewire(node.filter(isOfTheBase), name)),
    ),
  );
}

function isOfTheBase({ number, body }: Field): boolean {
  if (number !== NODE.attribute || body === null) return true;
  return !ADAPTER_ATTRIBUTES.has(textsOf(fieldsOf(body), ATTRIBUTE_NAME)[0] ?? '');
}

function rewire(node: readonly Field[], name: (text: string) => string): Uint8Array {
  const wired = node.map(({ number, raw, body }) =>
    (number === NODE.input || number === NODE.output) && body !== null
      ? wrap(number, Buffer.from(name(Buffer.from(body).toString())))
      : raw,
  );
  return Buffer.concat(wired);
}

/** A copy of a prepared model whose graph knows no adapters; its other files are the same by hard links. */
export function bareModel(model: PreparedModel, root: string): PreparedModel {
  const { manifest } = model;
  const graph = withoutAdapters(readFileSync(join(model.directory, manifest.graph.file)));
  const digest = createHash('sha256').update(graph).update(manifest.digest).digest('hex').slice(0, 16);
  const directory = join(root, `${manifest.precision}-${digest}`);
  if (!existsSync(directory)) {
    const unfinished = `${directory}.${process.pid}`;
    mkdirSync(unfinished, { recursive: true });
    writeFileSync(join(unfinished, manifest.graph.file), graph);
    for (const { file } of [manifest.weights, manifest.tokenizer]) {
      linkSync(join(model.directory, file), join(unfinished, file));
    }
    renameSync(unfinished, directory);
  }
  return { ...model, directory };
}
