"""ML Metadata's store behind a gRPC server, for tests.

The store's own implementation serves every method of `ml_metadata.MetadataStoreService` from an SQLite file. When the
server listens, it prints one line on stdout: `listening on 127.0.0.1:PORT`.
"""
import argparse
from concurrent import futures

import grpc
from ml_metadata import errors
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2, metadata_store_service_pb2

STATUS = {code.value[0]: code for code in grpc.StatusCode}
# Creates the database if it does not exist.
READWRITE_OPENCREATE = 3


def open_store(database):
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = database
    config.sqlite.connection_mode = READWRITE_OPENCREATE
    # One attempt, so that clients see failures.
    config.retry_options.max_num_retries = 1
    return metadata_store.MetadataStore(config)


def handler(store, method):
    request_type = getattr(metadata_store_service_pb2, method.input_type.name)
    response_type = getattr(metadata_store_service_pb2, method.output_type.name)

    def call(request, context):
        response = response_type()
        try:
            store._call(method.name, request, response)
        except errors.StatusError as error:
            context.abort(STATUS[error.error_code], str(error))
        return response

    return grpc.unary_unary_rpc_method_handler(call, request_type.FromString, response_type.SerializeToString)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--database", required=True, help="an SQLite file, created if it does not exist")
    arguments.add_argument("--port", type=int, default=0, help="a port of 127.0.0.1; 0 means a free one")
    options = arguments.parse_args()

    store = open_store(options.database)
    service = metadata_store_service_pb2.DESCRIPTOR.services_by_name["MetadataStoreService"]
    handlers = {method.name: handler(store, method) for method in service.methods}
    # One worker, because the store has one connection to SQLite. Without port reuse, a second server on the port fails.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
