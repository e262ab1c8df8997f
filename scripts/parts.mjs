// A stream of bytes as files of bounded size with their SHA-256, and the script that puts them together again.
import { createHash } from 'node:crypto';
import { chmodSync, closeSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const PREFIX = 'part-';
const SUMS = 'SHA256SUMS';

/** POSIX shell and coreutils only: the machine may have nothing else. */
const UNPACK = `#!/bin/sh
# Checks the parts beside this script and unpacks them: sh unpack.sh [FOLDER]
set -eu
to=\${1:-loramux}
mkdir -p "$to"
to=$(cd "$to" && pwd)
cd "$(dirname "$0")"
sha256sum -c --quiet ${SUMS} || { echo "a part is missing or damaged: bring it again" >&2; exit 1; }
cat ${PREFIX}* | tar -xz -C "$to"
echo "unpacked into $to"
`;

/** Names sort as the parts follow each other. */
function partName(index) {
  return `${PREFIX}${String(index).padStart(4, '0')}`;
}

/**
 * Writes a gzipped tar archive that comes as a stream into files of at most `limit` bytes in `directory`, with
 * `SHA256SUMS` and `unpack.sh` beside them. What lay there from before is removed. Returns name, bytes and SHA-256 of
 * each part.
 */
export async function writeParts(stream, directory, limit) {
  mkdirSync(directory, { recursive: true });
  for (const name of readdirSync(directory)) if (name.startsWith(PREFIX)) rmSync(join(directory, name));
  const parts = [];
  let open = null;
  const close = () => {
    if (open === null) return;
    closeSync(open.handle);
    parts.push({ file: open.file, bytes: open.bytes, sha256: open.hash.digest('hex') });
    open = null;
  };
  for await (const chunk of stream) {
    for (let at = 0; at < chunk.length; ) {
      if (open === null) {
        const file = partName(parts.length);
        open = { file, handle: openSync(join(directory, file), 'w'), bytes: 0, hash: createHash('sha256') };
      }
      const piece = chunk.subarray(at, at + limit - open.bytes);
      for (let written = 0; written < piece.length; ) written += writeSync(open.handle, piece, written);
      open.hash.update(piece);
      open.bytes += piece.length;
      at += piece.length;
      if (open.bytes === limit) close();
    }
  }
  close();
  writeFileSync(join(directory, SUMS), parts.map(({ file, sha256 }) => `${sha256}  ${file}\n`).join(''));
  writeFileSync(join(directory, 'unpack.sh'), UNPACK);
  chmodSync(join(directory, 'unpack.sh'), 0o755);
  return parts;
}
