/**
 * Who may end another's session: by `break`, or to take its lock over.
 *
 * @module
 */

import type { Peer } from "./peer.ts";

/** What the agent lets users do to each other's sessions. */
export class Rights {
  readonly #adminGid: number | undefined;

  /**
   * @param adminGid The group whose members may end any session; absent: there is none.
   */
  constructor(adminGid: number | undefined) {
    this.#adminGid = adminGid;
  }

  /**
   * Whether a user may end sessions of another: root may, the same user, and the admin group.
   *
   * @param by Who wants to.
   * @param uid Whose session it is.
   */
  mayEnd(by: Peer, uid: number): boolean {
    return by.uid === 0 || by.uid === uid || this.#isAdmin(by);
  }

  #isAdmin({ gid, groups }: Peer): boolean {
    const admin = this.#adminGid;
    return admin !== undefined && (gid === admin || groups?.includes(admin) === true);
  }
}
