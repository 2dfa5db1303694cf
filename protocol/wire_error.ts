/**
 * Errors as they go over the wire: a JSON-RPC number, a sentence, and a stable string code with facts.
 *
 * @module
 */

/** The stable codes of an error, in `error.data.code`. */
export type WireErrorCode =
  | "parse-error"
  | "line-too-long"
  | "invalid-request"
  | "unknown-method"
  | "bad-params"
  | "internal"
  | "hello-first"
  | "protocol-mismatch"
  | "bad-name"
  | "contended"
  | "already-claimed"
  | "not-held"
  | "no-session"
  | "denied"
  | "lock-file"
  | "no-token"
  | "no-record"
  | "holder-failed"
  | "limit"
  | "cancelled";

/** The JSON-RPC 2.0 number of each code; -32000 for all that JSON-RPC does not know. */
const NUMBERS: Partial<Record<WireErrorCode, number>> = {
  "parse-error": -32700,
  "line-too-long": -32700,
  "invalid-request": -32600,
  "unknown-method": -32601,
  "bad-params": -32602,
  "bad-name": -32602,
  "internal": -32603,
};

/** The `error` member of a response. */
export interface WireErrorObject {
  /** JSON-RPC 2.0 number; -32000 for every condition that is sshlock's own. */
  code: number;
  /** A sentence for people: action, target, state. */
  message: string;
  /** The stable code, and the facts of this case beside it. */
  data: { code: WireErrorCode } & Record<string, unknown>;
}

/**
 * An error that one side tells the other.
 *
 * It is thrown by whatever finds the condition and sent by the session that the request came in on.
 */
export class WireError extends Error {
  override name = "WireError";
  /** The stable code. */
  readonly code: WireErrorCode;
  /** The facts of this case, each a JSON value. */
  readonly facts: Record<string, unknown>;

  /**
   * @param code The stable code.
   * @param message A sentence for people: action, target, state.
   * @param facts The facts of this case.
   */
  constructor(code: WireErrorCode, message: string, facts: Record<string, unknown> = {}) {
    super(message);
    this.code = code;
    this.facts = facts;
  }

  /** The `error` member that carries this error. */
  toWire(): WireErrorObject {
    return {
      code: NUMBERS[this.code] ?? -32000,
      message: this.message,
      data: { ...this.facts, code: this.code },
    };
  }

  /**
   * The error in a response, whatever the peer sent there.
   *
   * @param error The `error` member of a response.
   */
  static fromWire(error: unknown): WireError {
    const { message, data } = (error ?? {}) as Partial<WireErrorObject>;
    const { code, ...facts } = (data ?? {}) as Partial<WireErrorObject["data"]>;
    return new WireError(code ?? "internal", String(message ?? "error without a message"), facts);
  }
}
