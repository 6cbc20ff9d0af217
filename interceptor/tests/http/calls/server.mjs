// A server of gRPC and gRPC-web (and Connect), whose messages are those of shop.proto; it says what it was sent.
import { readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";
import { createRequire } from "node:module";
const require = createRequire(process.argv[2] + "/");
const { createFileRegistry, create, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { connectNodeAdapter } = require("@connectrpc/connect-node");
const [port, key, chain, described, card] = process.argv.slice(3);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(described)));
const Orders = registry.getService("shop.Orders");
const Placed = registry.getMessage("shop.Placed");
const routes = router => router.service(Orders, {
  place(order, context) {
    console.log("placed", order.currency, context.protocolName, context.requestHeader.get("authorization"));
    const customer = { name: "Ada", cardNumber: card };
    return create(Placed, { id: "o-7", order: { currency: order.currency, customer }, told: "thanks" });
  },
  async *list(query) {
    for (let n = 0; n < 5; n++) yield create(Placed, { id: `${query.id}-${n}`, order: { customer: { cardNumber: `secret-${n}` } } });
  },
  cancel() { console.log("cancelled"); return create(Placed, {}); },
});
const options = { key: readFileSync(key), cert: readFileSync(chain), allowHTTP1: true };
createSecureServer(options, connectNodeAdapter({ routes })).listen(Number(port), () => console.log("ready"));
