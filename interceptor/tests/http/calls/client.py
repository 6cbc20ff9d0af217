# Its client, which knows nothing of any of this.
import grpc, queue, sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

address, described = sys.argv[1:3]
pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(open(described, "rb").read()).file:
    pool.Add(file)
kind = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName("shop." + name))
Order, Query, Placed, Line = map(kind, ["Order", "Query", "Placed", "Line"])
clear = len(sys.argv) > 3
channel = grpc.insecure_channel(address) if clear else grpc.secure_channel(address, grpc.ssl_channel_credentials())
write = lambda message: message.SerializeToString()


def say(name, work):
    try:
        print(name, work(), flush=True)
    except grpc.RpcError as error:
        print(name, error.code().name, error.details(), flush=True)


def place(currency, **options):
    call = channel.unary_unary("/shop.Orders/Place", request_serializer=write, response_deserializer=Placed.FromString)
    answer = call(Order(currency=currency, notes=["a note"] * 100), timeout=20, **options)
    customer = answer.order.customer
    return answer.id, customer.card_number, customer.phone, answer.order.currency, answer.told


say("euro", lambda: place("EUR", metadata=(("authorization", "Bearer placeholder"),)))
say("zipped", lambda: place("EUR", compression=grpc.Compression.Gzip))
say("dollar", lambda: place("USD"))
say("dollar-zipped", lambda: place("USD", compression=grpc.Compression.Gzip))
raw = lambda body: channel.unary_unary("/shop.Orders/Place")(body, timeout=20)
say("twice", lambda: raw(write(Order(currency="EUR")) + write(Order(currency="USD"))))
say("unknown", lambda: raw(write(Order(currency="EUR")) + b"\x98\x06\x01"))
many = channel.unary_stream("/shop.Orders/List", request_serializer=write, response_deserializer=Placed.FromString)
say("list", lambda: [(one.id, one.order.customer.name, one.order.customer.card_number) for one in many(Query(id="q"), timeout=20)][-1])
upload = channel.stream_unary("/shop.Orders/Upload", request_serializer=write, response_deserializer=Placed.FromString)
say("upload", lambda: upload(iter([Order(currency="EUR")] * 50), timeout=20).id)
say("upload-dollar", lambda: upload(iter([Order(currency="EUR"), Order(currency="USD"), Order(currency="EUR")]), timeout=20).id)
cancel = channel.unary_unary("/shop.Orders/Cancel", request_serializer=write, response_deserializer=Placed.FromString)
say("cancel", lambda: cancel(Query(id="o-7"), timeout=20))
said = queue.Queue()
chat = channel.stream_stream("/shop.Orders/Chat", request_serializer=write, response_deserializer=Line.FromString)
call = chat(iter(said.get, None), timeout=20)
for word in ["one", "two", "three"]:
    said.put(Line(text=word))
    answer = next(call)
    print("chat", answer.text, getattr(answer, "from").nickname, flush=True)
said.put(Line(text="drop"))
say("drop", lambda: next(call))
said.put(None)

# Some servers take whatever comes at the path of a method for a call of it.
if not clear:
    import httpx

    frame = lambda message: b"\0" + len(message).to_bytes(4, "big") + message
    usd = frame(write(Order(currency="USD", notes=["&currency=EUR&"])))
    with httpx.Client(http2=True, timeout=20) as web:
        for kind, body in [
            ("application/x-www-form-urlencoded", frame(b"")),
            ("application/x-www-form-urlencoded", usd),
            ("application/json", b"{}"),
            ("application/proto", b""),
            ("text/plain", usd),
        ]:
            for method in ["Cancel", "Place", "Upload"]:
                headers = {"content-type": kind, "te": "trailers"}
                told = web.post("https://%s/shop.Orders/%s" % (address, method), content=body, headers=headers)
                print("disguised", method, told.status_code, kind, told.text[:300].replace("\n", " "), flush=True)
