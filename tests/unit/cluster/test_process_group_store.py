"""The process group of workers: where its sockets listen."""

import os
from unittest import mock

import psutil
import pytest
import ray
import torch
import torch.distributed as dist

from service.cluster.network import choose_interface
from service.cluster.process_group import join_process_group, open_listener

# Loopback too, and no address that a program chooses by itself.
NODE_ADDRESS = "127.0.0.2"


def listening():
    connections = psutil.Process().net_connections("tcp")
    return {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}


@pytest.fixture
def one_worker(monkeypatch):
    """A node's address, and the context of its only worker."""
    numbers = {"world_rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1}
    context = mock.Mock()
    for name, value in {**numbers, "node_rank": 0}.items():
        getattr(context, f"get_{name}").return_value = value
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: NODE_ADDRESS)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    with mock.patch.dict(os.environ):
        yield


def test_workers_listen_on_the_nodes_interface_only(one_worker):
    before = listening()
    choose_interface()
    listener = open_listener()
    join_process_group(listener, "gloo", 30)
    try:
        total = torch.ones(3)
        dist.all_reduce(total)
        opened = listening() - before
    finally:
        dist.destroy_process_group()
    assert (NODE_ADDRESS, listener.port) in opened
    assert {address for address, _ in opened} <= {NODE_ADDRESS, "127.0.0.1"}
