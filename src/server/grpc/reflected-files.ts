import { readFileSync } from 'node:fs';
import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import protobuf, { type Type } from 'protobufjs';
import descriptor from 'protobufjs/ext/descriptor/index.js';

const { FileDescriptorProto } = descriptor as unknown as { readonly FileDescriptorProto: Type };

/**
 * A .proto file's definitions with the descriptors that its compiler would give them. The loader alone writes fields in
 * camelCase, names files after their packages and forgets their imports: clients that build on the compiler's own rules,
 * such as grpcurl, refuse that. `name` is the file's in import statements, its directory being its package; it lies at
 * `file`, and its imports among the loader's own files.
 */
export function reflectedFiles(name: string, file: string): PackageDefinition {
  const { imports = [] } = protobuf.parse(readFileSync(file, 'utf8'));
  const names = new Map([name, ...imports].map((path) => [packageOf(path), path]));
  if (names.size !== 1 + imports.length) throw new Error(`${name} imports two files of one package`);
  const rewrite = (bytes: Uint8Array): Buffer => {
    const decoded = FileDescriptorProto.decode(bytes) as unknown as { readonly package: string };
    const path = names.get(decoded.package);
    if (path === undefined) throw new Error(`${name} imports no file of the package ${decoded.package}`);
    const dependency = path === name ? imports : [];
    return Buffer.from(FileDescriptorProto.encode({ ...decoded, name: path, dependency }).finish());
  };
  const definitions = Object.entries(loadSync(file, { keepCase: true })).map(([symbol, definition]) => {
    if (!Array.isArray(definition.fileDescriptorProtos)) return [symbol, definition];
    return [symbol, { ...definition, fileDescriptorProtos: definition.fileDescriptorProtos.map(rewrite) }];
  });
  return Object.fromEntries(definitions) as PackageDefinition;
}

/** Of `google/protobuf/duration.proto`: `google.protobuf`. */
function packageOf(path: string): string {
  return path.split('/').slice(0, -1).join('.');
}
