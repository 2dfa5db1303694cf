/**
 * Promises that are waited for no longer than so long.
 *
 * @module
 */

/**
 * What a promise resolves to within a time, else `undefined`. The promise itself goes on.
 *
 * @param promise The promise.
 * @param ms The time, in milliseconds.
 */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) =>
    timer = setTimeout(() => resolve(undefined), ms)
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
