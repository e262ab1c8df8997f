import type { AdapterSource, DirectorySource, FileSource } from '../core/adapter-source.js';
import { LoramuxError } from '../core/errors.js';
import { isAdapterName } from '../core/names.js';
import type { AdapterRoots } from './adapter-directory.js';
import { type AdapterRecord, createRecord } from './adapter-record.js';
import { AliasTable, nameTaken } from './aliases.js';
import { unreachable } from './loader.js';
import { notFound } from './registry-errors.js';
import type { RemoteSources } from './sources/remote-sources.js';

/** Adapter names and what they stand for: those loaded or asked for, those of the scanned roots, and aliases. */
export class NameBook {
  readonly records = new Map<string, AdapterRecord>();
  readonly aliases = new AliasTable(this.records);
  /** Names that the operator unloaded: not found again in the roots until an admin load. */
  readonly unloaded = new Set<string>();
  /** Names of records that requests made by saying where their adapter lies. */
  readonly located = new Set<string>();

  /** `sources` is null where adapters come from directories only. */
  constructor(
    readonly roots: AdapterRoots,
    private readonly sources: RemoteSources | null,
  ) {}

  /** The record behind a name or alias, as far as it is known. ERR_ADAPTER_NOT_FOUND for an alias that leads nowhere. */
  known(name: string): AdapterRecord | undefined {
    return this.records.get(this.aliases.has(name) ? this.aliases.holderOf(name) : name);
  }

  /** The record of a name in the scanned roots, made known. ERR_ADAPTER_NOT_FOUND. */
  async find(name: string): Promise<AdapterRecord> {
    if (this.aliases.has(name))
      throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `${name} is an alias: name its adapter`);
    const directory = this.unloaded.has(name) ? null : await this.roots.find(name);
    const known = this.records.get(name);
    if (known !== undefined) return known;
    if (directory === null || this.unloaded.has(name)) throw notFound(name, this.unloaded.has(name));
    const record = createRecord(name, directorySource(directory));
    this.records.set(name, record);
    return record;
  }

  /** A record for an unknown name, not kept yet: of the folder's own adapter of this name, if there is one, else of `source`. */
  async create(name: string, source: AdapterSource): Promise<AdapterRecord> {
    const inRoots = this.unloaded.has(name) ? null : await this.roots.find(name);
    return createRecord(name, inRoots === null ? source : directorySource(inRoots));
  }

  /** Makes the adapters of the scanned roots known. */
  async scan(): Promise<void> {
    for (const [name, directory] of await this.roots.scan()) {
      if (!this.records.has(name) && !this.unloaded.has(name) && !this.aliases.has(name))
        this.records.set(name, createRecord(name, directorySource(directory)));
    }
  }

  /** The source with its real path, or taken over, once it may be loaded at all. */
  async admit(source: FileSource): Promise<FileSource> {
    if (source.type !== 'dir') {
      if (this.sources === null) throw unreachable(source);
      return this.sources.admit(source);
    }
    const real = await this.roots.resolve(source.location);
    if (real !== null) return directorySource(real);
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `expected an adapter directory at ${source.location}, found nothing: check the path`,
    );
  }

  /** A name that an admin load may use. ERR_BAD_REQUEST for any other. */
  requireFree(name: string): void {
    requireName(name);
    if (this.aliases.has(name)) throw nameTaken(name, 'an alias');
  }

  /** The digest of an adapter or alias. ERR_ADAPTER_NOT_FOUND when it is not known or was never loaded. */
  async digestOf(name: string): Promise<string> {
    const known = this.aliases.digestOf(name);
    if (known !== null) return known;
    const { facts } = await this.find(name);
    if (facts !== null) return facts.digest;
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `adapter ${name} was never loaded, so its digest is not known: load it first`,
    );
  }

  /** True while a name stands for files that were uploaded. */
  isUpload(digest: string): boolean {
    for (const { source, load } of this.records.values()) {
      for (const each of [source, load?.source]) if (each?.type === 'upload' && each.location === digest) return true;
    }
    return false;
  }
}

/** ERR_BAD_REQUEST for what no adapter or alias may be called. */
export function requireName(name: string): void {
  if (isAdapterName(name)) return;
  const expected = 'expected an adapter name of letters, digits, ".", "_", "-" and at most one "/"';
  throw new LoramuxError('ERR_BAD_REQUEST', `${expected}, found ${JSON.stringify(name)}`, { field: 'name' });
}

function directorySource(location: string): DirectorySource {
  return { type: 'dir', location };
}
