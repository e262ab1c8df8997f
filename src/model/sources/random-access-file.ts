import { type FileHandle, open } from 'node:fs/promises';
import { LoramuxError } from '../../core/errors.js';
import { invalidModel } from '../model-errors.js';

/** A file opened for positioned reads. Owns its handle until `close`. */
export class RandomAccessFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** ERR_MODEL_NOT_FOUND when it cannot be opened, ERR_MODEL_INVALID when it is no plain file. */
  static async open(path: string): Promise<RandomAccessFile> {
    let handle: FileHandle;
    try {
      handle = await open(path, 'r');
    } catch (cause) {
      throw new LoramuxError(
        'ERR_MODEL_NOT_FOUND',
        `${path}: cannot be opened for reading: check path and permissions`,
        { file: path },
        { cause },
      );
    }
    const stats = await handle.stat();
    if (!stats.isFile()) {
      await handle.close();
      throw invalidModel(path, 'expected a plain file, found a directory or device');
    }
    return new RandomAccessFile(path, stats.size, handle);
  }

  /**
   * Bytes `offset … offset + length` in a fresh, 8-byte aligned array. The range is checked against the file's size
   * before anything is allocated; `what` names it in the error (ERR_MODEL_INVALID).
   */
  async read(offset: number, length: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
    if (
      !Number.isSafeInteger(offset) ||
      !Number.isSafeInteger(length) ||
      offset < 0 ||
      length < 0 ||
      offset + length > this.size
    ) {
      throw invalidModel(
        this.path,
        `${what} needs bytes ${offset} to ${offset + length}, but the file ends at ${this.size}: it was cut short or is damaged, fetch it again`,
      );
    }
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const { bytesRead } = await this.handle.read(bytes, done, length - done, offset + done);
      if (bytesRead === 0) throw invalidModel(this.path, `shrank to ${offset + done} bytes while ${what} was read`);
      done += bytesRead;
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
