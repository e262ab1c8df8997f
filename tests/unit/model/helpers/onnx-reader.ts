import protobuf from 'protobufjs/minimal.js';

/** Decoded protobuf fields by number: integers, fixed32 floats, or bytes. */
export type Fields = ReadonlyMap<number, readonly (number | Uint8Array)[]>;

/** Splits a protobuf message into its fields, knowing nothing of ONNX. */
export function readFields(bytes: Uint8Array): Fields {
  const reader = protobuf.Reader.create(bytes);
  const fields = new Map<number, (number | Uint8Array)[]>();
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const list = fields.get(tag >>> 3) ?? [];
    fields.set(tag >>> 3, list);
    switch (tag & 7) {
      case 0:
        list.push(Number(reader.int64()));
        break;
      case 2:
        list.push(reader.bytes());
        break;
      case 5:
        list.push(reader.float());
        break;
      default:
        throw new Error(`wire type ${tag & 7}`);
    }
  }
  return fields;
}

export function messages(fields: Fields, field: number): Fields[] {
  return (fields.get(field) ?? []).map((value) => readFields(value as Uint8Array));
}

export function texts(fields: Fields, field: number): string[] {
  return (fields.get(field) ?? []).map((value) => Buffer.from(value as Uint8Array).toString());
}

export function numbers(fields: Fields, field: number): number[] {
  return (fields.get(field) ?? []).map(Number);
}

export interface ReadNode {
  readonly type: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, number>>;
}

export interface ReadInitializer {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly number[];
  readonly values: readonly number[];
  readonly external: Readonly<Record<string, string>>;
}

/** Reads the parts of a ModelProto that the tests look at. */
export function readModel(bytes: Uint8Array) {
  const model = readFields(bytes);
  const [graph] = messages(model, 7);
  if (graph === undefined) throw new Error('no graph');
  const pair = (entry: Fields) => [texts(entry, 1)[0] ?? '', texts(entry, 2)[0] ?? ''] as const;
  return {
    irVersion: numbers(model, 1)[0],
    opsets: Object.fromEntries(messages(model, 8).map((entry) => [texts(entry, 1)[0] ?? '', numbers(entry, 2)[0]])),
    inputs: messages(graph, 11).map((value) => texts(value, 1)[0]),
    outputs: messages(graph, 12).map((value) => texts(value, 1)[0]),
    outputTypes: messages(graph, 12).flatMap((value) =>
      messages(value, 2).flatMap((type) => messages(type, 1).flatMap((tensor) => numbers(tensor, 1))),
    ),
    nodes: messages(graph, 1).map(
      (node): ReadNode => ({
        type: texts(node, 4)[0] ?? '',
        domain: texts(node, 7)[0] ?? '',
        inputs: texts(node, 1),
        outputs: texts(node, 2),
        attributes: Object.fromEntries(
          messages(node, 5).map((entry) => [
            texts(entry, 1)[0] ?? '',
            numbers(entry, 3)[0] ?? numbers(entry, 2)[0] ?? Number.NaN,
          ]),
        ),
      }),
    ),
    initializers: messages(graph, 5).map(
      (tensor): ReadInitializer => ({
        name: texts(tensor, 8)[0] ?? '',
        type: numbers(tensor, 2)[0] ?? 0,
        shape: numbers(tensor, 1),
        values: numbers(tensor, 7),
        external: Object.fromEntries(messages(tensor, 13).map(pair)),
      }),
    ),
  };
}
