import type { MergeMethod } from './composition.js';

/** A directory of this machine. */
export interface DirectorySource {
  readonly type: 'dir';
  /** Absolute path. */
  readonly location: string;
}

/** A repository of a model hub. */
export interface HubSource {
  readonly type: 'hub';
  /** `org/name`. */
  readonly location: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  /** Opens private repositories; never shown or logged. */
  readonly token: string | null;
}

/** The objects below a prefix of a bucket. Credentials are the server's own. */
export interface S3Source {
  readonly type: 's3';
  /** `s3://bucket/prefix`, without a slash at the end. */
  readonly location: string;
}

/** A directory on a web server, or one tar file. */
export interface HttpSource {
  readonly type: 'http';
  /** http or https URL without credentials and fragment; a tar file if its path ends in `.tar`. */
  readonly location: string;
  /** Sent as a bearer token to this server only; never shown or logged. */
  readonly token: string | null;
}

/** Files that an operator sent. */
export interface UploadSource {
  readonly type: 'upload';
  /** Digest of the files. */
  readonly location: string;
  /** Where they are until they are taken over; null afterwards. */
  readonly received: { readonly directory: string; readonly bytes: number } | null;
}

/** One adapter of a merge, as its name was understood when the merge was asked for. */
export interface MergeMember {
  readonly name: string;
  readonly weight: number;
  /** Its files must have this digest. */
  readonly digest: string;
  readonly source: FileSource;
}

/** Other adapters, merged. */
export interface MergeSource {
  readonly type: 'merge';
  /** Digest of the recipe: method, and digest and weight of each member. */
  readonly location: string;
  readonly method: MergeMethod;
  readonly members: readonly MergeMember[];
}

/** Where an adapter comes from. Plain data: it crosses threads. */
export type AdapterSource = FileSource | MergeSource;

/** Sources that hold an adapter's own files. */
export type FileSource = DirectorySource | RemoteSource;

/** Sources whose files are copied to the disk tier before they are loaded. */
export type RemoteSource = HubSource | S3Source | HttpSource | UploadSource;

/** How far a fetch has come; `total` is null while the source has not said how much there is. */
export interface FetchProgress {
  readonly bytes: number;
  readonly total: number | null;
}

/** The source in one string, as lists, logs and errors show it: without tokens, queries and credentials. */
export function describeSource(source: AdapterSource): string {
  switch (source.type) {
    case 'dir':
    case 'upload':
    case 'merge':
      return `${source.type}:${source.location}`;
    case 'hub':
      return `hub:${source.location}@${source.revision}`;
    case 's3':
      return source.location;
    case 'http':
      return plainUrl(source.location);
  }
}

/** A URL without credentials, query and fragment: those may hold secrets. */
export function plainUrl(location: string): string {
  const { origin, pathname } = new URL(location);
  return `${origin}${pathname}`;
}

/** True when both name the same files in the same place, whoever may open them. */
export function isSameSource(a: AdapterSource, b: AdapterSource): boolean {
  return (
    a.type === b.type && a.location === b.location && (a.type !== 'hub' || a.revision === (b as HubSource).revision)
  );
}
