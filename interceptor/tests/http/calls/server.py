# A server of gRPC whose messages are those of shop.proto; it says what it was sent.
import grpc, sys
from concurrent import futures
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

address, key, chain, described, card = sys.argv[1:]
pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(open(described, "rb").read()).file:
    pool.Add(file)
kind = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName("shop." + name))
Order, Query, Placed, Line, Customer = map(kind, ["Order", "Query", "Placed", "Line", "Customer"])


def told(context):
    return dict(context.invocation_metadata()).get("authorization", "nobody")


def place(order, context):
    print("placed", order.currency, len(order.notes), flush=True)
    order.customer.card_number = card
    order.customer.phone = 4917
    return Placed(id="o-7", order=order, told=told(context) + " pays with " + card)


def many(query, context):
    for number in range(20):
        placed = Placed(id="%s-%d" % (query.id, number))
        placed.order.customer.name = "Ada"
        placed.order.customer.card_number = "secret-%d" % number
        yield placed


def upload(orders, context):
    count = 0
    for order in orders:
        print("uploaded", order.currency, flush=True)
        count += 1
    return Placed(id=str(count))


def chat(lines, context):
    for line in lines:
        print("said", line.text, flush=True)
        answer = Line(text="echo " + line.text)
        getattr(answer, "from").nickname = "secret"
        yield answer


def cancel(query, context):
    print("cancelled", flush=True)
    return Placed()


def handler(make, work, sent):
    return make(work, request_deserializer=sent.FromString, response_serializer=lambda message: message.SerializeToString())


methods = {
    "Place": handler(grpc.unary_unary_rpc_method_handler, place, Order),
    "List": handler(grpc.unary_stream_rpc_method_handler, many, Query),
    "Upload": handler(grpc.stream_unary_rpc_method_handler, upload, Order),
    "Chat": handler(grpc.stream_stream_rpc_method_handler, chat, Line),
    "Cancel": handler(grpc.unary_unary_rpc_method_handler, cancel, Query),
}
server = grpc.server(futures.ThreadPoolExecutor(8), compression=grpc.Compression.Gzip)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", methods),))
if key == "-":
    server.add_insecure_port(address)
else:
    credentials = grpc.ssl_server_credentials([(open(key, "rb").read(), open(chain, "rb").read())])
    assert server.add_secure_port(address, credentials)
server.start()
print("ready", flush=True)
server.wait_for_termination()
