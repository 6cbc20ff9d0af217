// A client of gRPC-web, over both versions of HTTP and in both of its forms.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const require = createRequire(process.argv[2] + "/");
const { createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { createClient } = require("@connectrpc/connect");
const { createConnectTransport, createGrpcWebTransport } = require("@connectrpc/connect-node");
const [baseUrl, described, ca] = process.argv.slice(3);
const Orders = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(described))).getService("shop.Orders");
const nodeOptions = ca ? { ca: readFileSync(ca) } : {};
for (const httpVersion of ["1.1", "2"]) {
  const client = createClient(Orders, createGrpcWebTransport({ baseUrl, httpVersion, nodeOptions }));
  const say = async (name, work) => {
    try { console.log(httpVersion, name, await work()); }
    catch (error) { console.log(httpVersion, name, error.code, error.rawMessage ?? String(error)); }
  };
  const place = async currency => {
    const placed = await client.place({ currency });
    return [placed.id, placed.order.currency, placed.order.customer.cardNumber, placed.told].join(" ");
  };
  await say("euro", () => place("EUR"));
  await say("dollar", () => place("USD"));
  await say("list", async () => { let last; for await (const one of client.list({ id: "q" })) last = one; return last.id + " " + last.order.customer.cardNumber; });
  await say("cancel", async () => (await client.cancel({ id: "o-7" })).id);
  await say("again", () => place("EUR"));
  // The same in Connect's own protocol: names are others in JSON, and policies know nothing of it.
  for (const useBinaryFormat of [false, true]) {
    const plain = createClient(Orders, createConnectTransport({ baseUrl, httpVersion, nodeOptions, useBinaryFormat }));
    const name = useBinaryFormat ? "connect-proto" : "connect-json";
    await say(name, async () => JSON.stringify(await plain.place({ currency: "EUR" })));
    await say(name, async () => JSON.stringify(await plain.cancel({})));
  }
}
process.exit(0);
