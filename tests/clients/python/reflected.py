"""A gRPC client that knows no .proto beforehand: what it can call it learns from the server's reflection service."""
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Reflected:
    """All services of one address. Messages are dicts with the fields' own names."""

    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address)
        self._database = ProtoReflectionDescriptorDatabase(self.channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[str]:
        return sorted(self._database.get_services())

    def call(self, method: str, message: dict, **options):
        """Calls `package.Service/Method`: the reply, or an iterator of replies that is also the call."""
        service, _, name = method.rpartition("/")
        found = self._pool.FindServiceByName(service).methods_by_name[name]
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        stub = kind(
            f"/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(found.output_type).FromString,
        )
        return stub(ParseDict(message, GetMessageClass(found.input_type)()), **options)

    def close(self):
        self.channel.close()


def plain(message) -> dict:
    """A reply as a dict; enums by name, 64-bit integers as text, what is unset left out."""
    return MessageToDict(message, preserving_proto_field_name=True)
