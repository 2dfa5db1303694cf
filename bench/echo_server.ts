// The limit that claims are measured against: says back what it hears on a unix socket. It runs in
// the runtime of the agent, so that the difference is the agent's work and not its runtime's.
//
//     bun echo_server.mjs SOCKET

import { createServer } from "node:net";
import process from "node:process";

const server = createServer((socket) => {
  socket.on("data", (bytes) => socket.write(bytes));
  socket.on("error", () => {});
});
server.listen(process.argv[2], () => process.stdout.write("listening\n"));
