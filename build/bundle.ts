import { chmodSync } from "node:fs";
import { join } from "node:path";
import { build, type BuildOptions, type Metafile, type Plugin } from "esbuild";

import { AGENT_BUNDLE, CLI_BUNDLE, CONTROLLER_BUNDLE } from "./paths.ts";
import { type Stamp, stampDefines } from "./stamp.ts";

// ssh2 and yargs are CommonJS inside: in an ES module their require() and __dirname come from here.
// The alias keeps clear of yargs, which declares a createRequire of its own.
const REQUIRE_BANNER = [
  `import { createRequire as __sshlockCreateRequire } from "node:module";`,
  `import { dirname as __sshlockDirname } from "node:path";`,
  `import { fileURLToPath as __sshlockFileURLToPath } from "node:url";`,
  `const require = __sshlockCreateRequire(import.meta.url);`,
  `const __filename = __sshlockFileURLToPath(import.meta.url);`,
  `const __dirname = __sshlockDirname(__filename);`,
].join("\n");

/** Bundles the controller library with all that it uses; returns what went into it. */
export async function bundleController(stamp: Stamp): Promise<Metafile> {
  const { metafile } = await build({
    ...nodeOptions(stamp),
    metafile: true,
    entryPoints: ["controller/mod.ts"],
    outfile: CONTROLLER_BUNDLE,
  });
  return metafile;
}

/** Bundles the people's CLI into one executable file; returns what went into it. */
export async function bundleCli(stamp: Stamp): Promise<Metafile> {
  const { metafile } = await build({
    ...nodeOptions(stamp),
    metafile: true,
    entryPoints: ["controller/cli/main.ts"],
    outfile: CLI_BUNDLE,
    banner: { js: `#!/usr/bin/env node\n${REQUIRE_BANNER}` },
  });
  chmodSync(CLI_BUNDLE, 0o755);
  return metafile;
}

/**
 * Bundles the agent into one module for Deno and Bun; returns what went into it.
 *
 * @param outfile The module; the product's unless told.
 * @param changes What a build for tests changes in the source.
 */
export async function bundleAgent(
  stamp: Stamp,
  outfile: string = AGENT_BUNDLE,
  changes: readonly Plugin[] = [],
): Promise<Metafile> {
  const { metafile } = await build({
    ...agentOptions(stamp, changes),
    metafile: true,
    outfile,
  });
  return metafile;
}

/**
 * Bundles the agent into parts that are loaded when they are needed.
 *
 * @param folder Where the parts go.
 * @param changes What a build for tests changes in the source.
 * @returns The path of the part that starts.
 */
export async function bundleAgentParts(
  stamp: Stamp,
  folder: string,
  changes: readonly Plugin[] = [],
): Promise<string> {
  await build({ ...agentOptions(stamp, changes), outdir: folder, splitting: true });
  return join(folder, "main.js");
}

function agentOptions(stamp: Stamp, changes: readonly Plugin[]): BuildOptions {
  const shared = nodeOptions(stamp);
  return {
    ...shared,
    entryPoints: ["agent/main.ts"],
    // No CommonJS in it: the banner would only cost start-up time.
    banner: {},
    // Leaves nothing of calls to functions that are empty, as crashPoint() is in the product.
    minifySyntax: true,
    plugins: [...shared.plugins ?? [], ...changes],
  };
}

/**
 * The options that every bundle for Node, Deno and Bun shares.
 *
 * Native addons become modules that throw when they are loaded, so ssh2 uses its own JavaScript.
 */
export function nodeOptions(stamp: Stamp): BuildOptions {
  return {
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20",
    charset: "utf8",
    legalComments: "eof",
    external: ["bun:ffi"],
    logLevel: "warning",
    banner: { js: REQUIRE_BANNER },
    define: stampDefines(stamp),
    plugins: [refuseNativeAddons],
  };
}

const refuseNativeAddons: Plugin = {
  name: "refuse-native-addons",
  setup(bundle) {
    // cpu-features is a package of nothing but an addon; sshcrypto is ssh2's own.
    bundle.onResolve({ filter: /\.node$|^cpu-features$/ }, (found) => ({
      path: found.path,
      namespace: "native-addon",
    }));
    bundle.onLoad({ filter: /.*/, namespace: "native-addon" }, (addon) => ({
      contents: `throw new Error(${JSON.stringify(`${addon.path} is not part of this bundle`)});`,
      loader: "js",
    }));
  },
};
