// vscode-jsonrpc over the Unix socket, which frames by Content-Length: node editor.mjs SOCKET
// Prints one JSON document: what a streamed conversation of two turns and an error gave.
import { connect } from "node:net";
import { createMessageConnection, SocketMessageReader, SocketMessageWriter } from "vscode-jsonrpc/node";

const socket = connect(process.argv[2]);
const connection = createMessageConnection(new SocketMessageReader(socket), new SocketMessageWriter(socket));
let streamed = "";
connection.onNotification("journal.delta", (delta) => {
  streamed = streamed.slice(0, delta.offset) + delta.text;
});
const ended = new Promise((resolve) => connection.onNotification("journal.end", (end) => resolve(end.reason)));
connection.listen();

const say = (content, more = {}) =>
  connection.sendRequest("conversation.send", { sender: "editor", content, wait: "settled", ...more });
const first = await say("The lamp is green.");
const second = await say("What did I say before?", { stream: true });
const end = await ended;
const refusal = await connection.sendRequest("run.get", { run_id: "run_nobody" }).then(
  () => null,
  (error) => ({ code: error.code, reason: error.data.reason }),
);
connection.end();
socket.end();
console.log(JSON.stringify({ first, second, streamed, end, refusal }));
