import protobuf from 'protobufjs/minimal.js';
import { ElementType, type Region } from './weight-layout.js';

/** Attribute values; plain numbers are written as INT, `{ float }` as FLOAT. */
export type AttributeValue = number | { readonly float: number };

export interface OnnxNode {
  readonly type: string;
  readonly domain?: string;
  readonly name: string;
  /** An empty name leaves an optional input out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
}

/** A graph input or output; text dimensions are symbolic. */
export interface OnnxValue {
  readonly name: string;
  readonly type: keyof typeof ElementType;
  readonly shape: readonly (number | string)[];
}

export interface OnnxGraph {
  readonly name: string;
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly nodes: readonly OnnxNode[];
  /** Initializers whose bytes lie in `weightsFile`, beside the model. */
  readonly weights: readonly Region[];
  readonly weightsFile: string;
}

const IR_VERSION = 10;
/** Operator set versions by domain; the empty domain is ONNX itself. */
const OPSETS: Readonly<Record<string, number>> = { '': 21, 'com.microsoft': 1, loramux: 1 };
const AttributeType = { float: 1, int: 2 } as const;
const EXTERNAL = 1;

type Writer = protobuf.Writer;

/** Serialises a ModelProto (field numbers of onnx.proto, IR 10, opset 21). */
export function writeOnnxModel(graph: OnnxGraph): Uint8Array {
  const writer = protobuf.Writer.create();
  writer.uint32(tag(1, VARINT)).int64(IR_VERSION);
  text(writer, 2, 'loramux');
  message(writer, 7, () => writeGraph(writer, graph));
  for (const [domain, version] of Object.entries(OPSETS)) {
    message(writer, 8, () => {
      text(writer, 1, domain);
      writer.uint32(tag(2, VARINT)).int64(version);
    });
  }
  return writer.finish();
}

function writeGraph(writer: Writer, graph: OnnxGraph): void {
  for (const node of graph.nodes) message(writer, 1, () => writeNode(writer, node));
  text(writer, 2, graph.name);
  for (const region of graph.weights) message(writer, 5, () => writeExternal(writer, region, graph.weightsFile));
  for (const value of graph.inputs) message(writer, 11, () => writeValue(writer, value));
  for (const value of graph.outputs) message(writer, 12, () => writeValue(writer, value));
}

function writeNode(writer: Writer, node: OnnxNode): void {
  for (const input of node.inputs) text(writer, 1, input);
  for (const output of node.outputs) text(writer, 2, output);
  text(writer, 3, node.name);
  text(writer, 4, node.type);
  for (const [name, value] of Object.entries(node.attributes ?? {})) {
    message(writer, 5, () => {
      text(writer, 1, name);
      const isInt = typeof value === 'number';
      if (isInt) writer.uint32(tag(3, VARINT)).int64(value);
      else writer.uint32(tag(2, FIXED32)).float(value.float);
      writer.uint32(tag(20, VARINT)).int32(isInt ? AttributeType.int : AttributeType.float);
    });
  }
  if (node.domain !== undefined) text(writer, 7, node.domain);
}

function writeExternal(writer: Writer, region: Region, location: string): void {
  for (const size of region.shape) writer.uint32(tag(1, VARINT)).int64(size);
  writer.uint32(tag(2, VARINT)).int32(ElementType[region.type]);
  text(writer, 8, region.name);
  for (const [key, value] of [
    ['location', location],
    ['offset', String(region.offset)],
    ['length', String(region.bytes)],
  ] as const) {
    message(writer, 13, () => {
      text(writer, 1, key);
      text(writer, 2, value);
    });
  }
  writer.uint32(tag(14, VARINT)).int32(EXTERNAL);
}

function writeValue(writer: Writer, { name, type, shape }: OnnxValue): void {
  text(writer, 1, name);
  message(writer, 2, () =>
    message(writer, 1, () => {
      writer.uint32(tag(1, VARINT)).int32(ElementType[type]);
      message(writer, 2, () => {
        for (const size of shape) {
          message(writer, 1, () => {
            if (typeof size === 'number') writer.uint32(tag(1, VARINT)).int64(size);
            else text(writer, 2, size);
          });
        }
      });
    }),
  );
}

const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

function tag(field: number, wireType: number): number {
  return (field << 3) | wireType;
}

function text(writer: Writer, field: number, value: string): void {
  writer.uint32(tag(field, LENGTH_DELIMITED)).string(value);
}

function message(writer: Writer, field: number, body: () => void): void {
  writer.uint32(tag(field, LENGTH_DELIMITED)).fork();
  body();
  writer.ldelim();
}
