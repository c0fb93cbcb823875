// A client that @open-rpc/generator made from rpc.discover, over the Unix socket: node conversation.js SOCKET.
// Prints one JSON document: what two turns, a refusal and the journal gave.
import { createConnection, Socket } from "node:net";
import { Client, RequestManager } from "@open-rpc/client-js";
import { JSONRPCRequestData, getNotifications } from "@open-rpc/client-js/build/Request";
import { Transport } from "@open-rpc/client-js/build/transports/Transport";
import Kheish, { JournalPage, RunView, SendResult } from "./kheish";

// The library has transports for HTTP and WebSockets without a token.
class Lines extends Transport {
  private socket?: Socket;
  private rest = "";

  constructor(private readonly path: string) {
    super();
  }

  public connect(): Promise<void> {
    const socket = createConnection(this.path).setEncoding("utf8");
    socket.on("data", (data) => {
      const lines = (this.rest + data).split("\n");
      this.rest = lines.pop() ?? "";
      lines.forEach((line) => this.transportRequestManager.resolveResponse(line));
    });
    this.socket = socket;
    return new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  }

  public sendData(data: JSONRPCRequestData, timeout?: number | null): Promise<unknown> {
    const answer = this.transportRequestManager.addRequest(data, timeout ?? null);
    this.socket?.write(JSON.stringify(this.parseData(data)) + "\n");
    this.transportRequestManager.settlePendingRequest(getNotifications(data));
    return answer;
  }

  public close(): void {
    this.socket?.end();
  }
}

async function main(path: string): Promise<void> {
  const transport = new Lines(path);
  const kheish = new Kheish({ transport: { type: "http", host: "localhost", port: 1 } });
  kheish.rpc = new Client(new RequestManager([transport]));

  const texts: string[] = [];
  const statuses: string[] = [];
  for (const content of ["The lamp is green.", "What did I say before?"]) {
    const sent: SendResult = await kheish["conversation.send"](content);
    const run: RunView = await kheish.rpc.request({ method: "run.wait", params: { run_id: sent.run_id } });
    statuses.push(run.status);
    texts.push(run.output ?? "");
  }
  const refusal = await kheish.rpc.request({ method: "run.get", params: { run_id: "run_nobody" } }).then(
    () => null,
    (error: { code: number; data: { reason: string } }) => [error.code, error.data.reason],
  );
  const page: JournalPage = await kheish["journal.read"]();
  transport.close();
  console.log(JSON.stringify({ statuses, texts, refusal, events: page.events.length }));
}

main(process.argv[2] ?? "").catch((error) => {
  console.error(error);
  process.exit(1);
});
