/*
 * The protocol of claim, grant, end and restart, between sessions, agent, holders and the kernel.
 *
 * One lock. Sessions 0 and 1 have one owner (they join), session 2 another; a shell-protocol claimant
 * is a third. Each step is as small as what the code does between two effects that somebody else can
 * see (kernel, disk, socket); behind it stands the function that does it. `kill -9` of the agent may
 * come between any two steps. Time is left out: whatever a timer does may happen at any time.
 *
 * A defence of the code that is taken out by -DNO_... must make spin find what it defends against.
 * docs/model.md says what is covered, what is not, and which test replays each counterexample.
 */

/* ---- how much of what happens; from the environment, so that one compiled checker does all runs -- */

byte crashLimit;  /* CRASHES: kill -9 of the agent, each followed by a new one */
byte killLimit;   /* KILLS: kill -9 of a holder under a living agent */
byte unlinkLimit; /* UNLINKS: removals of the lock file; who comes next makes another inode */
byte cutLimit;    /* CUTS: ends of a connection under a living session */
byte peerLimit;   /* PEERS: claims by the shell protocol */
byte claimLimit;  /* CLAIMS: claims by sessions; a session's slot may be used again */
byte joinerLimit; /* JOINERS: sessions of the first owner beside its first one: 0 or 1 */
byte endings;     /* ENDINGS: how sessions end: 1, by a release; 2, by death or silence; 3, both */
byte missing;     /* MISSING: the number of the defence that is taken out; 0: none */

#define NO_CLEAN_UP (missing == 1)
#define NO_DESCRIPTOR (missing == 2)
#define NO_INODE_CHECK (missing == 3)
#define NO_DETACH (missing == 4)
#define NO_EPIPE (missing == 5)
#define NO_TIE (missing == 6)
#define NO_TOKEN_FILE (missing == 7)
#define NO_PIDFD_GETFD (missing == 8)
#define NO_RUN_FILE (missing == 9)
#define NO_LOOK_AT_OTHERS (missing == 10)
#define NO_LOOK_AT_RESUME (missing == 11)
#define SUCCESSOR_RECORDED_LATE (missing == 12)
#define NO_WATCH (missing == 13)

#define SESSIONS 3
#define OWNER(s) ((s) / 2)
#define BIT(s) (1 << (s))

/* ---- the kernel: inodes, open file descriptions, flock(2) ------------------------------------- */

#define DESCRIPTIONS 6
#define NONE 15

byte path = 1;      /* the inode that the path leads to; 0: there is none */
byte lastInode = 1;
byte dInode[DESCRIPTIONS];
byte dRefs[DESCRIPTIONS]; /* descriptors, of any process */
bit dLock[DESCRIPTIONS];

#define LOCKED(d, inode, self) (d != (self) && dLock[d] && dInode[d] == (inode))
#define TAKEN(inode, self) \
  (LOCKED(0, inode, self) || LOCKED(1, inode, self) || LOCKED(2, inode, self) || \
   LOCKED(3, inode, self) || LOCKED(4, inode, self) || LOCKED(5, inode, self))

/* open(2) with O_CREAT; one descriptor */
inline openPath(d) {
  if
  :: path == 0 -> lastInode++; path = lastInode
  :: else
  fi;
  if
  :: dRefs[0] == 0 -> d = 0
  :: else ->
    if
    :: dRefs[1] == 0 -> d = 1
    :: else ->
      if
      :: dRefs[2] == 0 -> d = 2
      :: else ->
        if
        :: dRefs[3] == 0 -> d = 3
        :: else ->
          if
          :: dRefs[4] == 0 -> d = 4
          :: else -> assert(dRefs[5] == 0); d = 5
          fi
        fi
      fi
    fi
  fi;
  dRefs[d] = 1;
  dInode[d] = path
}

/* close(2): the last descriptor takes the lock with it */
inline closeOne(d) {
  dRefs[d]--;
  if
  :: dRefs[d] == 0 -> dLock[d] = 0; dInode[d] = 0
  :: else
  fi
}

/* ---- holders: agent/holder/x86_64.ts ---------------------------------------------------------- */

#define HOLDERS 4

#define H_NONE 0
#define H_ORDERED 1 /* has its order and descriptor 999 */
#define H_QUEUED 2  /* has answered W, flock(2) without LOCK_NB */
#define H_GOT 3     /* flock(2) has returned */
#define H_TIED 4    /* has answered L; ends with its agent */
#define H_HOLD 5    /* pauses for ever */

#define M_NONE 0
#define M_LOCKED 1
#define M_BUSY 2

byte hState[HOLDERS];
byte hDesc[HOLDERS];
byte hGen[HOLDERS]; /* the agent at the other end of its socket */
byte hSays[HOLDERS]; /* what the agent has not read yet */
bit hWaits[HOLDERS];
bit hUntied[HOLDERS]; /* the agent has written its byte */
bit hKilled[HOLDERS]; /* SIGKILL is on its way */

/* ---- what is on disk -------------------------------------------------------------------------- */

#define GONE 14 /* a holder that lives no more: pid and start time fit no process */

bit rThere;
byte rHolder;
byte rGrants;
byte counter; /* agent/token_store.ts: the file `token` */

/* ---- the agent's memory: agent/lock_table.ts, agent/session.ts -------------------------------- */

/* What it does at the moment, from one event to the next; 0: it waits for an event. */
#define P_IDLE 0
#define P_OPEN 1       /* #acquire: openLockFile */
#define P_ORDER 2      /* #acquire: pool.lock, send */
#define P_TOKEN 3      /* #toOwnership: tokens.next */
#define P_RECORD 4     /* #grant: #own, #record */
#define P_UNTIE 5      /* #grant: untie */
#define P_ANSWER 6     /* #settleGranted */
#define P_TRY_KILL 7   /* unlock() of what was tried: its holder */
#define P_TRY_UNLOCK 8 /* LOCK_UN */
#define P_TRY_CLOSE 9
#define P_KILL 10      /* #free: unlock() of an ownership: its holder */
#define P_UNLOCK 11    /* LOCK_UN */
#define P_CLOSE 12
#define P_JOIN 13      /* #join: #record */
#define P_JOINED 14    /* #settleGranted of one that joins */
#define P_REPLACED 15  /* #replaceHolder: #record, where that is late */

bit up;
byte generation;
byte doing;

byte queue[SESSIONS]; /* claims in the order they came, 0: none, else session + 1 */

#define T_NONE 0
#define T_WAITS 1 /* for its holder's answer */
#define T_ENDS 2  /* for its holder's end */
byte attempt;
byte aSession = NONE;
byte aDesc = NONE;
byte aHolder = NONE;
bit aSettled;
bit aBusy;

bit owned;
byte oDesc = NONE;
byte oHolder = NONE;
byte oGrants;
byte oEnded; /* the session whose grant ends, while the lock is unlocked */
byte successor = NONE; /* the holder that is to replace a dead one */
bit successorIsLate;   /* its ownership has ended meanwhile */
byte joining = NONE;
bit recordIsDue; /* #recordLater */

#define S_NONE 0
#define S_HELD 1
#define S_DETACHED 2
#define S_ENDING 3
byte state[SESSIONS];

/* ---- sessions ---------------------------------------------------------------------------------- */

#define C_IDLE 0
#define C_WAITS 1
#define C_HAS 2
#define C_OVER 3
byte client[SESSIONS];
bit connected[SESSIONS];
bit root[SESSIONS];     /* the sshd of the session lives */
bit leftover[SESSIONS]; /* and so does what it has started */
bit waits[SESSIONS];    /* its claim has a waitMs */

/* ---- the shell protocol ------------------------------------------------------------------------ */

byte peerDesc = NONE;
bit peerActs;

/* ---- what has happened so far, and an older generation ----------------------------------------- */

byte crashes;
byte kills;
byte unlinks;
byte cuts;
byte peers;
byte claims;

bit older; /* a stopped agent beside the one that is up */
byte olderDesc = NONE;
byte olderGrants;

/* ---- the promises ------------------------------------------------------------------------------ */

/* Granted, and a process of the session may still act. */
bit acts[SESSIONS];
byte actsOn[SESSIONS]; /* the inode that was locked for it */
bit raced; /* the path was replaced behind the last look of the claim that is being granted */
byte highest; /* the highest token given out */

/* An assertion is told by the name of the variable that it is about; a formula is checked alone. */
#ifdef LTL
#define CHECK(promise) skip
#else
#define CHECK(promise) assert(promise)
#endif
bool exclusionHolds = true;
bool handoverHolds = true;
bool tokensRise = true;
bool fifoHolds = true;
bool lossIsExplained = true;
bool nothingIsLeft = true;

#define ACTS_FOR(owner) (((owner) == 0 && (acts[0] || acts[1])) || ((owner) == 1 && acts[2]))
#define IS_HELD(inode) TAKEN(inode, peerDesc)
#define SURVIVES(s) (!acts[s] || IS_HELD(actsOn[s]))
#define IS_OVER(s) (client[s] == C_IDLE || client[s] == C_OVER)
#define ALL_OVER (IS_OVER(0) && IS_OVER(1) && IS_OVER(2))
#define IS_FREE (!IS_HELD(path))
#define UNTOLD(s) (acts[s] && actsOn[s] != path)

/* Somebody else's processes may act on what is about to be granted to session s, or to the shell. */
inline checkEntry(owner, inode) {
  s2 = 0;
  do
  :: s2 < SESSIONS ->
    if
    :: acts[s2] && OWNER(s2) != owner && (owner != 2 || actsOn[s2] == inode) ->
      if
      :: root[s2] && client[s2] == C_HAS -> exclusionHolds = false; CHECK(exclusionHolds)
      :: else -> handoverHolds = false; CHECK(handoverHolds)
      fi
    :: else
    fi;
    s2++
  :: else -> break
  od;
  s2 = 0
}

inline stopsActing(s) {
  acts[s] = 0;
  actsOn[s] = 0
}

/* The answer to a claim, or to the hello that resumes a session with a lock. */
inline enter(s, inode) {
  checkEntry(OWNER(s), inode);
  exclusionHolds = !(peerActs && dInode[peerDesc] == path && !raced);
  CHECK(exclusionHolds);
  client[s] = C_HAS;
  acts[s] = 1;
  actsOn[s] = inode;
  leftover[s] = 1
}

/* ---- holders ------------------------------------------------------------------------------------ */

#define AGENT_IS_GONE(h) (!up || hGen[h] != generation)

inline holderDies(h) {
  closeOne(hDesc[h]);
  hState[h] = H_NONE;
  hDesc[h] = 0;
  hGen[h] = 0;
  hSays[h] = M_NONE;
  hWaits[h] = 0;
  hUntied[h] = 0;
  hKilled[h] = 0;
  if
  :: rThere && rHolder == h -> rHolder = GONE
  :: else
  fi;
  if
  :: aHolder == h -> aHolder = NONE
  :: else
  fi;
  if
  :: oHolder == h -> oHolder = NONE
  :: else
  fi;
  if
  :: successor == h -> successor = NONE; successorIsLate = 0
  :: else
  fi
}

/* HolderPool.lock, HolderProcess.send: a process with descriptor 999 on the description */
inline order(h, d, mayWait, untied) {
  if
  :: hState[0] == H_NONE -> h = 0
  :: else ->
    if
    :: hState[1] == H_NONE -> h = 1
    :: else ->
      if
      :: hState[2] == H_NONE -> h = 2
      :: else -> assert(hState[3] == H_NONE); h = 3
      fi
    fi
  fi;
  hState[h] = H_ORDERED;
  hDesc[h] = d;
  hGen[h] = generation;
  hWaits[h] = mayWait;
  hUntied[h] = untied;
  dRefs[d]++
}

inline killHolder(h) {
  if
  :: h != NONE -> hKilled[h] = 1
  :: else
  fi
}

proctype Holder(byte h) {
end:
  do
  /* the kernel carries SIGKILL out */
  :: d_step { hKilled[h] -> holderDies(h) }
  /* takeLock, "try": flock(999, operation | LOCK_NB) */
  :: d_step { hState[h] == H_ORDERED && !hKilled[h] && !TAKEN(dInode[hDesc[h]], hDesc[h]) ->
      dLock[hDesc[h]] = 1;
      hState[h] = H_GOT
    }
  :: d_step { hState[h] == H_ORDERED && !hKilled[h] && TAKEN(dInode[hDesc[h]], hDesc[h]) ->
      if
      :: AGENT_IS_GONE(h) -> holderDies(h)
      :: hWaits[h] && !AGENT_IS_GONE(h) -> hState[h] = H_QUEUED
      :: else -> hSays[h] = M_BUSY; hState[h] = H_TIED /* answers B; the agent awaits its end */
      fi
    }
  /* takeLock, "wait": the kernel wakes it */
  :: d_step { hState[h] == H_QUEUED && !hKilled[h] && !TAKEN(dInode[hDesc[h]], hDesc[h]) ->
      dLock[hDesc[h]] = 1;
      hState[h] = H_GOT
    }
  /* hold, "locked": answer, EPIPE where nobody is left to hear it */
  :: d_step { hState[h] == H_GOT && !hKilled[h] ->
      if
      :: AGENT_IS_GONE(h) && NO_EPIPE -> hState[h] = H_HOLD
      :: AGENT_IS_GONE(h) && !NO_EPIPE -> holderDies(h)
      :: else -> hSays[h] = M_LOCKED; hState[h] = (NO_TIE -> H_HOLD : H_TIED)
      fi
    }
  /* hold, "tied": read(3): a byte, or the end of the socket */
  :: d_step { hState[h] == H_TIED && !hKilled[h] && hUntied[h] -> hState[h] = H_HOLD; hUntied[h] = 0 }
  :: d_step { hState[h] == H_TIED && !hKilled[h] && !hUntied[h] && AGENT_IS_GONE(h) -> holderDies(h) }
  od
}

/* ---- the agent ---------------------------------------------------------------------------------- */

/* isStillThere: the path leads to what was locked */
#define IS_STILL_THERE (dInode[aDesc] == path || NO_INODE_CHECK)

/* checkFiles before a grant: an ownership whose file was replaced is lost first */
#define OTHERS_ARE_LOOKED_AT \
  (aSettled || dInode[aDesc] != path || !owned || dInode[oDesc] == path || NO_LOOK_AT_OTHERS)

/* checkFilesOf before a session that resumes is told what it has */
#define ITS_FILE_IS_LOOKED_AT (!owned || dInode[oDesc] == path || NO_LOOK_AT_RESUME)

#define IS_CLEARED(s) (!root[s] && !leftover[s] || NO_CLEAN_UP)

#define WAITS_FOR_EVENTS (up && doing == P_IDLE)

inline removeFromQueue(s) {
  if
  :: queue[0] == s + 1 -> queue[0] = queue[1]; queue[1] = queue[2]; queue[2] = 0
  :: else ->
    if
    :: queue[1] == s + 1 -> queue[1] = queue[2]; queue[2] = 0
    :: else ->
      if
      :: queue[2] == s + 1 -> queue[2] = 0
      :: else
      fi
    fi
  fi
}

#define IS_QUEUED(s) (queue[0] == s + 1 || queue[1] == s + 1 || queue[2] == s + 1)

/* #cancel, #refuse, #settleRefused */
inline refuse(s) {
  removeFromQueue(s);
  if
  :: attempt != T_NONE && aSession == s -> aSettled = 1; killHolder(aHolder)
  :: else
  fi;
  if
  :: client[s] == C_WAITS -> client[s] = C_OVER
  :: else
  fi;
  if
  :: state[s] != S_ENDING -> state[s] = S_NONE
  :: else
  fi
}

/* Records.write, by rename */
inline writeRecord() {
  rThere = owned && oGrants != 0;
  rHolder = (rThere -> oHolder : 0);
  if
  :: rThere && oHolder == NONE -> rHolder = GONE
  :: else
  fi;
  rGrants = (rThere -> oGrants : 0)
}

/* #end: one grant; with the last one #unlock */
inline endGrant(s) {
  oGrants = oGrants & (7 - BIT(s));
  state[s] = S_NONE;
  recordIsDue = 1;
  if
  :: oGrants == 0 -> doing = P_KILL
  :: else
  fi
}

/* #lose: the sessions are told, and all grants end. What a replaced file lets in is not ours to keep out. */
inline loseAll() {
  s2 = 0;
  do
  :: s2 < SESSIONS ->
    if
    :: oGrants & BIT(s2) ->
      stopsActing(s2);
      client[s2] = C_OVER;
      state[s2] = S_NONE
    :: else
    fi;
    s2++
  :: else -> break
  od;
  s2 = 0;
  oGrants = 0;
  recordIsDue = 1;
  doing = P_KILL
}

inline forgetAttempt() {
  attempt = T_NONE;
  aSession = NONE;
  aDesc = NONE;
  aHolder = NONE;
  aSettled = 0;
  aBusy = 0;
  raced = 0
}

/* A process's end closes its descriptors and forgets the rest. */
inline forgetAll() {
  generation++;
  doing = P_IDLE;
  queue[0] = 0; queue[1] = 0; queue[2] = 0;
  forgetAttempt();
  owned = 0;
  oDesc = NONE;
  oHolder = NONE;
  oGrants = 0;
  successor = NONE;
  successorIsLate = 0;
  joining = NONE;
  recordIsDue = 0;
  state[0] = S_NONE; state[1] = S_NONE; state[2] = S_NONE;
  connected[0] = 0; connected[1] = 0; connected[2] = 0
}

#define IS_HOLDING(h, d) \
  (hState[h] >= H_TIED && hDesc[h] == (d) && !hKilled[h] && \
   (hState[h] == H_HOLD || hUntied[h]))

/* Agent and holder both dead: nothing has the lock any more. That is left to the token. */
inline exemptIfBothDie() {
  if
  :: owned && !IS_HOLDING(0, oDesc) && !IS_HOLDING(1, oDesc) && !IS_HOLDING(2, oDesc) &&
     !IS_HOLDING(3, oDesc) ->
    s2 = 0;
    do
    :: s2 < SESSIONS ->
      if
      :: (oGrants & BIT(s2)) -> stopsActing(s2)
      :: else
      fi;
      s2++
    :: else -> break
    od;
    s2 = 0
  :: else
  fi
}

inline crash() {
  exemptIfBothDie();
  if
  :: aDesc != NONE -> closeOne(aDesc)
  :: else
  fi;
  if
  :: owned && !NO_DESCRIPTOR -> closeOne(oDesc)
  :: else
  fi;
  up = 0;
  forgetAll()
}

/* adoptLocks: before anyone can connect */
inline adopt() {
  up = 1;
  counter = (NO_TOKEN_FILE -> 0 : counter);
  if
  :: rThere && rHolder < HOLDERS && !hKilled[rHolder] && dLock[hDesc[rHolder]] &&
     dInode[hDesc[rHolder]] == path ->
    owned = 1;
    oHolder = rHolder;
    oGrants = rGrants;
    if
    :: NO_PIDFD_GETFD -> openPath(oDesc)
    :: else -> oDesc = hDesc[rHolder]; dRefs[oDesc]++
    fi;
    s2 = 0;
    do
    :: s2 < SESSIONS ->
      if
      :: oGrants & BIT(s2) -> state[s2] = S_DETACHED
      :: else
      fi;
      s2++
    :: else -> break
    od;
    s2 = 0
  /* it has its order and not yet the descriptor 999: ended, so that nobody's lock comes of it */
  :: rThere && rHolder < HOLDERS && !hKilled[rHolder] && hState[rHolder] == H_ORDERED ->
    killHolder(rHolder);
    rThere = 0;
    rHolder = 0;
    rGrants = 0
  :: else ->
    /* record-stale; where the file was replaced, the session learns of its loss when it resumes */
    s2 = 0;
    do
    :: s2 < SESSIONS ->
      if
      :: rThere && (rGrants & BIT(s2)) && actsOn[s2] != path -> stopsActing(s2)
      :: else
      fi;
      s2++
    :: else -> break
    od;
    s2 = 0;
    rThere = 0;
    rHolder = 0;
    rGrants = 0
  fi
}

proctype Agent() {
  byte s2;
end:
  do
  :: d_step { !up -> adopt() }

  /* ---- a claim: #pump, #start, #attempt, #acquire ---- */
  :: d_step { WAITS_FOR_EVENTS && attempt == T_NONE && queue[0] != 0 ->
      attempt = T_WAITS;
      aSession = queue[0] - 1;
      doing = P_OPEN
    }
  :: d_step { up && doing == P_OPEN -> openPath(aDesc); doing = P_ORDER }
  :: d_step { up && doing == P_ORDER ->
      order(aHolder, aDesc, waits[aSession], 0);
      doing = P_IDLE
    }
  /* its holder has answered L; isStillThere */
  :: d_step { WAITS_FOR_EVENTS && attempt == T_WAITS && aHolder != NONE &&
      hSays[aHolder] == M_LOCKED && OTHERS_ARE_LOOKED_AT ->
      hSays[aHolder] = M_NONE;
      if
      :: !aSettled && IS_STILL_THERE -> doing = P_TOKEN
      :: else -> doing = P_TRY_KILL
      fi
    }
  /* it has answered B */
  :: d_step { WAITS_FOR_EVENTS && attempt == T_WAITS && aHolder != NONE && hSays[aHolder] == M_BUSY ->
      hSays[aHolder] = M_NONE;
      aBusy = 1;
      doing = P_TRY_KILL
    }
  /* it has ended before it could answer: pool.lock starts another */
  :: d_step { WAITS_FOR_EVENTS && attempt == T_WAITS && aHolder == NONE ->
      doing = (aSettled -> P_TRY_KILL : P_ORDER)
    }
  :: d_step { up && doing == P_TRY_KILL -> killHolder(aHolder); doing = P_TRY_UNLOCK }
  :: d_step { up && doing == P_TRY_UNLOCK -> dLock[aDesc] = 0; doing = P_TRY_CLOSE }
  :: d_step { up && doing == P_TRY_CLOSE ->
      closeOne(aDesc);
      aDesc = NONE;
      attempt = T_ENDS;
      doing = P_IDLE
    }
  /* holder.ended */
  :: d_step { WAITS_FOR_EVENTS && attempt == T_ENDS && aHolder == NONE ->
      if
      :: aSettled -> forgetAttempt()
      :: !aSettled && aBusy -> refuse(aSession); forgetAttempt()
      :: !aSettled && !aBusy -> attempt = T_WAITS; doing = P_OPEN
      fi
    }

  /* ---- a grant: #toOwnership, #grant ---- */
  :: d_step { up && doing == P_TOKEN ->
      counter++;
      tokensRise = counter > highest;
      CHECK(tokensRise);
      highest = counter;
      doing = P_RECORD
    }
  :: d_step { up && doing == P_RECORD ->
      fifoHolds = queue[0] == aSession + 1;
      CHECK(fifoHolds);
      removeFromQueue(aSession);
      if
      :: NO_DESCRIPTOR -> closeOne(aDesc)
      :: else
      fi;
      if
      :: NO_LOOK_AT_OTHERS && owned -> closeOne(oDesc) /* it is not followed any further */
      :: else
      fi;
      owned = 1;
      oDesc = aDesc;
      oHolder = aHolder;
      oGrants = BIT(aSession);
      writeRecord();
      joining = aSession;
      aDesc = NONE;
      s2 = raced;
      forgetAttempt();
      raced = s2;
      s2 = 0;
      doing = P_UNTIE
    }
  :: d_step { up && doing == P_UNTIE ->
      if
      :: oHolder != NONE -> hUntied[oHolder] = (hState[oHolder] == H_TIED)
      :: else
      fi;
      doing = P_ANSWER
    }
  :: d_step { up && doing == P_ANSWER ->
      if
      :: connected[joining] && client[joining] == C_WAITS -> enter(joining, dInode[oDesc])
      :: else
      fi;
      joining = NONE;
      raced = 0;
      doing = P_IDLE
    }
  /* #join */
  :: d_step { up && doing == P_JOIN -> oGrants = oGrants | BIT(joining); writeRecord(); doing = P_ANSWER }

  /* ---- the holder of an ownership was killed: #replaceHolder ---- */
  :: d_step { WAITS_FOR_EVENTS && owned && oHolder == NONE && successor == NONE && !NO_DESCRIPTOR ->
      order(successor, oDesc, 0, 1);
      /* onStart: on record before the order goes out, so that it needs no tie */
      if
      :: SUCCESSOR_RECORDED_LATE -> skip
      :: else -> oHolder = successor; writeRecord()
      fi
    }
  :: d_step { WAITS_FOR_EVENTS && successor != NONE && hSays[successor] == M_LOCKED ->
      hSays[successor] = M_NONE;
      if
      :: successorIsLate -> killHolder(successor)
      :: !successorIsLate && SUCCESSOR_RECORDED_LATE -> oHolder = successor; doing = P_REPLACED
      :: else
      fi;
      successor = NONE;
      successorIsLate = 0
    }
  :: d_step { WAITS_FOR_EVENTS && successor != NONE && hSays[successor] == M_BUSY ->
      hSays[successor] = M_NONE;
      killHolder(successor);
      successor = NONE;
      successorIsLate = 0
    }
  :: d_step { up && doing == P_REPLACED -> writeRecord(); doing = P_IDLE }

  /* ---- the end of an ownership: #end, #free, #recordLater ---- */
  :: d_step { up && doing == P_KILL -> killHolder(oHolder); doing = P_UNLOCK }
  :: d_step { up && doing == P_UNLOCK ->
      if
      :: !NO_DESCRIPTOR -> dLock[oDesc] = 0
      :: else
      fi;
      doing = P_CLOSE
    }
  :: d_step { up && doing == P_CLOSE ->
      if
      :: !NO_DESCRIPTOR -> closeOne(oDesc)
      :: else
      fi;
      owned = 0;
      oDesc = NONE;
      oHolder = NONE;
      successorIsLate = (successor != NONE);
      doing = P_IDLE
    }
  :: d_step { WAITS_FOR_EVENTS && recordIsDue -> writeRecord(); recordIsDue = 0 }

  /* ---- the lock file: the watch of the folder, a heartbeat, the next claim: #checkFile ---- */
  :: d_step { WAITS_FOR_EVENTS && owned && dInode[oDesc] != path && !NO_DESCRIPTOR && !NO_WATCH ->
      loseAll()
    }
  od
}

/* ---- sessions, each with the agent's part in its events ------------------------------------------ */

proctype Session(byte s) {
  byte s2;
end:
  do
  /* claim: #join, or the queue */
  :: atomic { WAITS_FOR_EVENTS && claims < claimLimit && client[s] == C_IDLE ->
      claims++;
      root[s] = 1;
      connected[s] = 1;
      client[s] = C_WAITS;
      state[s] = S_HELD;
      if
      :: owned && ((OWNER(s) == 0 && !(oGrants & 4)) || (OWNER(s) == 1 && (oGrants & 4))) &&
         (((oGrants & 1) && state[0] != S_ENDING) || ((oGrants & 2) && state[1] != S_ENDING) ||
          ((oGrants & 4) && state[2] != S_ENDING)) ->
        joining = s;
        doing = P_JOIN
      :: else ->
        if
        :: waits[s] = 1
        :: s == 2 && !owned -> waits[s] = 0
        fi;
        if
        :: queue[0] == 0 -> queue[0] = s + 1
        :: queue[0] != 0 && queue[1] == 0 -> queue[1] = s + 1
        :: queue[0] != 0 && queue[1] != 0 -> queue[2] = s + 1
        fi
      fi
    }
  /* it has waited long enough, or takes its claim back: #refuse, #cancel */
  :: d_step { WAITS_FOR_EVENTS && IS_QUEUED(s) && connected[s] && s == 2 -> refuse(s) }
  /* release: what it ran it has ended by itself */
  :: d_step { WAITS_FOR_EVENTS && client[s] == C_HAS && connected[s] && state[s] == S_HELD &&
      (endings & 1) ->
      client[s] = C_OVER;
      leftover[s] = 0;
      stopsActing(s);
      endGrant(s)
    }
  /* resume */
  :: d_step { WAITS_FOR_EVENTS && root[s] && !connected[s] && state[s] != S_HELD &&
      (client[s] == C_HAS || client[s] == C_WAITS) && ITS_FILE_IS_LOOKED_AT ->
      if
      :: state[s] == S_DETACHED ->
        connected[s] = 1;
        state[s] = S_HELD;
        if
        :: client[s] == C_WAITS -> enter(s, dInode[oDesc])
        :: else
        fi
      :: else ->
        /* no-session: a loss; nothing but a replaced file or two deaths at once may lead here */
        lossIsExplained = !acts[s] || state[s] == S_ENDING;
        CHECK(lossIsExplained);
        client[s] = C_OVER
      fi
    }
  /* the controller is killed: its sshd ends, what it has started lives on */
  :: d_step { root[s] && client[s] != C_IDLE && (endings & 2) ->
      root[s] = 0;
      connected[s] = 0;
      client[s] = C_OVER;
      if
      :: !leftover[s] -> stopsActing(s)
      :: else
      fi
    }
  /* the connection ends under a living session */
  :: d_step { root[s] && connected[s] && cuts < cutLimit && client[s] != C_OVER ->
      cuts++;
      connected[s] = 0
    }

  /* ---- the agent's events about it ---- */
  /* Session.detach */
  :: d_step { WAITS_FOR_EVENTS && state[s] == S_HELD && !connected[s] ->
      if
      :: IS_QUEUED(s) -> refuse(s)
      :: else
      fi;
      if
      :: oGrants & BIT(s) ->
        if
        :: NO_DETACH && root[s] -> endGrant(s)
        :: else -> state[s] = S_DETACHED
        fi
      :: else -> state[s] = S_NONE
      fi
    }
  /* Session.end: its root is gone (#watchRoot), or it was silent for too long */
  :: d_step { WAITS_FOR_EVENTS && (oGrants & BIT(s)) && ((endings & 2) || !root[s] || client[s] == C_OVER) &&
      (state[s] == S_DETACHED || (state[s] == S_HELD && connected[s])) ->
      state[s] = S_ENDING;
      connected[s] = 0;
      client[s] = C_OVER
    }
  /* clearLeftovers: what is signalled ends in its own time */
  :: d_step { up && state[s] == S_ENDING && (root[s] || leftover[s]) && !NO_CLEAN_UP ->
      root[s] = 0;
      leftover[s] = 0;
      stopsActing(s)
    }
  /* finishEnd: two searches have found nothing */
  :: d_step { WAITS_FOR_EVENTS && state[s] == S_ENDING && (oGrants & BIT(s)) && IS_CLEARED(s) ->
      endGrant(s)
    }
  /* the slot goes to another session */
  :: d_step { claims < claimLimit && client[s] == C_OVER && state[s] == S_NONE && !acts[s] &&
      !(oGrants & BIT(s)) && !(rThere && (rGrants & BIT(s))) && aSession != s && joining != s ->
      root[s] = 0;
      leftover[s] = 0;
      connected[s] = 0;
      waits[s] = 0;
      client[s] = C_IDLE
    }
  od
}

/* ---- the shell protocol --------------------------------------------------------------------------- */

proctype Shell() {
  byte s2;
end:
  do
  /* exec 999>FILE */
  :: d_step { peers < peerLimit && peerDesc == NONE -> peers++; openPath(peerDesc) }
  /* flock -xn 999 */
  :: d_step { peerDesc != NONE && !peerActs ->
      if
      :: TAKEN(dInode[peerDesc], peerDesc) -> closeOne(peerDesc); peerDesc = NONE
      :: else ->
        dLock[peerDesc] = 1;
        peerActs = 1;
        checkEntry(2, dInode[peerDesc])
      fi
    }
  /* its holder is killed */
  :: d_step { peerActs -> closeOne(peerDesc); peerDesc = NONE; peerActs = 0 }
  od
}

/* ---- faults --------------------------------------------------------------------------------------- */

proctype Faults() {
  byte s2;
end:
  do
  :: d_step { up && crashes < crashLimit -> crashes++; crash() }
  /* SIGKILL of the holder of an ownership, or of one that tries or waits */
  :: d_step { up && kills < killLimit && owned && oHolder != NONE && !hKilled[oHolder] ->
      kills++;
      hKilled[oHolder] = 1
    }
  :: d_step { up && kills < killLimit && aHolder != NONE && !hKilled[aHolder] ->
      kills++;
      hKilled[aHolder] = 1
    }
  :: d_step { path != 0 && unlinks < unlinkLimit ->
      unlinks++;
      path = 0;
      raced = (up && doing >= P_TOKEN && doing <= P_ANSWER)
    }
  /* The agent is stopped, and another is started: the flock(2) on the run file keeps it out. */
  :: d_step { NO_RUN_FILE && !older && up && doing == P_IDLE && owned && attempt == T_NONE &&
      successor == NONE && generation == 0 ->
      older = 1;
      olderDesc = oDesc;
      olderGrants = oGrants;
      up = 0;
      forgetAll()
    }
  od
}

#define LIVES(s) ((olderGrants & BIT(s)) && (root[s] || leftover[s]))

/* The older generation goes on: its sessions have ended, so it unlocks. */
proctype Older() {
end:
  do
  :: d_step { older && !LIVES(0) && !LIVES(1) && !LIVES(2) ->
      dLock[olderDesc] = 0;
      closeOne(olderDesc);
      older = 0;
      olderDesc = NONE;
      olderGrants = 0
    }
  od
}

/* Nothing moves any more: no lock, no claim and no waiter may be left. */
proctype End() {
end:
  timeout ->
  nothingIsLeft = ALL_OVER && !TAKEN(path, NONE) && queue[0] == 0 && attempt == T_NONE && !owned && !rThere;
  CHECK(nothingIsLeft)
}

init {
  c_code {
    now.crashLimit = atoi(getenv("CRASHES"));
    now.killLimit = atoi(getenv("KILLS"));
    now.unlinkLimit = atoi(getenv("UNLINKS"));
    now.cutLimit = atoi(getenv("CUTS"));
    now.peerLimit = atoi(getenv("PEERS"));
    now.claimLimit = atoi(getenv("CLAIMS"));
    now.joinerLimit = atoi(getenv("JOINERS"));
    now.endings = atoi(getenv("ENDINGS"));
    now.missing = atoi(getenv("MISSING"));
  };
  atomic {
    up = 1;
    run Agent();
    run Holder(0);
    run Holder(1);
    run Holder(2);
    run Holder(3);
    run Session(0);
    run Session(2);
    run Faults();
    if
    :: joinerLimit > 0 -> run Session(1)
    :: else
    fi;
    if
    :: peerLimit > 0 -> run Shell()
    :: else
    fi;
    if
    :: NO_RUN_FILE -> run Older()
    :: else
    fi;
#ifndef LTL
    run End();
#endif
    skip
  }
}

#ifdef LTL
ltl exclusion { [] !(ACTS_FOR(0) && ACTS_FOR(1)) }
ltl survival { [] (SURVIVES(0) && SURVIVES(1) && SURVIVES(2)) }
ltl answered { [] ((client[0] == C_WAITS) -> <> (client[0] != C_WAITS)) }
ltl freed { [] (ALL_OVER -> <> (IS_FREE || !ALL_OVER)) }
ltl told { [] (UNTOLD(0) -> <> !UNTOLD(0)) }
#endif
