import type { RemoteSource, UploadSource } from './adapter-source.js';

/** How often and how patiently a failed step of a fetch is tried again. */
export interface RetryPolicy {
  /** Tries in all, the first included. */
  readonly attempts: number;
  /** Longest wait before the second try; it doubles from try to try. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
}

/** Caps of one fetch or upload. */
export interface FetchLimits {
  /** All files together, skipped ones included; no single file can be larger. */
  readonly maxBytes: number;
  /** Files or archive members looked at. */
  readonly maxFiles: number;
  /** From the first request to the last byte. */
  readonly totalMs: number;
  /** Without a byte. */
  readonly stallMs: number;
  readonly retry: RetryPolicy;
}

/** A host that may be asked: a name or address, in lower case, without brackets. */
export interface HostRule {
  readonly host: string;
  /** Null = the default port of the scheme. */
  readonly port: number | null;
}

/** Who may be asked for adapters over HTTP. */
export interface HostRules {
  /** At public addresses. */
  readonly hosts: readonly HostRule[];
  /** At any address; each with its port. */
  readonly privateHosts: readonly HostRule[];
}

export interface HubAccess {
  /** Base URL; null = the hub client's default. */
  readonly endpoint: string | null;
  /** For requests that bring no token of their own. */
  readonly token: string | null;
}

/** A file as it was fetched. */
export interface FetchedFile {
  /** Relative to the adapter's directory. */
  readonly path: string;
  readonly bytes: number;
  /** Hex SHA-256 of the content. */
  readonly sha256: string;
  /** Names exactly these bytes at the source (a strong ETag, an object id); null when it has no such thing. */
  readonly validator: string | null;
}

/** An earlier fetch of the same source: files whose validator still holds need not come again. */
export interface PreviousFetch {
  readonly directory: string;
  readonly files: readonly FetchedFile[];
}

/** Sources that have to be asked. */
export type FetchableSource = Exclude<RemoteSource, UploadSource>;

/** How adapters are fetched. */
export interface FetchSettings {
  readonly limits: FetchLimits;
  readonly rules: HostRules;
  readonly hub: HubAccess;
  /** S3-compatible service, addressed path-style; null = AWS, or AWS_ENDPOINT_URL_S3. */
  readonly s3Endpoint: string | null;
}
