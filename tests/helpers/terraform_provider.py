"""`python terraform_provider.py SOCKET`: a Terraform provider that knows AWS's schema and reaches no AWS.

Comes in: aws_schema.json, the arguments of the resources that infra/terraform uses, as the real provider has them.
Goes out: Terraform's plugin protocol 6 on a Unix socket, until standard input ends; enough of it for `terraform
validate` and `plan`. It runs in the environment of the tools (infra/lint-requirements.txt).
"""

from __future__ import annotations

import json
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgpack
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

SCHEMA = json.loads(Path(__file__).with_name("aws_schema.json").read_text())
TAGS = {"attributes": {"tags": [["map", "string"], "optional"]}, "single": True}
PROVIDER = {"attributes": {"region": ["string", "optional"]}, "blocks": {"default_tags": TAGS}}
UNKNOWN = msgpack.ExtType(0, b"\x00")


def block(described: dict[str, Any]) -> pb.Schema.Block:
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(type_).encode(),
            required=use == "required",
            optional=use in {"optional", "computed"},
            computed=use in {"computed", "output"},
        )
        for name, (type_, use) in described["attributes"].items()
    ]
    nested = [
        pb.Schema.NestedBlock(
            type_name=name,
            block=block(inner),
            nesting=pb.Schema.NestedBlock.LIST,
            min_items=int(inner.get("required", False)),
            max_items=int(inner.get("single", False)),
        )
        for name, inner in described.get("blocks", {}).items()
    ]
    return pb.Schema.Block(attributes=attributes, block_types=nested)


def schemas(kind: str) -> dict[str, pb.Schema]:
    return {name: pb.Schema(block=block(described)) for name, described in SCHEMA[kind].items()}


class Provider(rpc.ProviderServicer):
    """Accepts what fits the schema; what AWS would compute is unknown."""

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        return pb.GetProviderSchema.Response(
            provider=pb.Schema(block=block(PROVIDER)),
            resource_schemas=schemas("resources"),
            data_source_schemas=schemas("data"),
        )

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        return pb.ConfigureProvider.Response()

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        planned = msgpack.unpackb(request.proposed_new_state.msgpack)
        for name, (_, use) in SCHEMA["resources"][request.type_name]["attributes"].items():
            if use in {"computed", "output"} and planned[name] is None:
                planned[name] = UNKNOWN
        return pb.PlanResourceChange.Response(planned_state=pb.DynamicValue(msgpack=msgpack.packb(planned)))

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        """A policy document; its JSON is its statements as they stand, not as IAM spells them."""
        read = msgpack.unpackb(request.config.msgpack)
        read |= {"json": json.dumps(read["statement"]), "minified_json": "", "id": ""}
        return pb.ReadDataSource.Response(state=pb.DynamicValue(msgpack=msgpack.packb(read)))

    def StopProvider(self, request: Any, context: Any) -> Any:
        return pb.StopProvider.Response()


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_ProviderServicer_to_server(Provider(), server)
    server.add_insecure_port(f"unix://{sys.argv[1]}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(0)
