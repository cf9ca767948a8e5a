"""Clusters that run already: two nodes of this machine, one of which is lost, and those that cannot be joined."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from support.elsewhere import run, same

from atlas_cli.engines.remote import cluster
from atlas_cli.engines.remote.cluster import connected
from atlas_cli.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default::ResourceWarning")]


@pytest.fixture(scope="class")
def two_nodes():
    """A head node and another, one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        if "RAY_AUTH_TOKEN" not in os.environ:  # Ray reads it once a process
            os.environ["RAY_AUTH_TOKEN"] = "0123456789abcdef" * 4
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


class TestTwoNodes:
    """In this order: the last loses a node."""

    def test_a_token_that_is_not_the_clusters(self, two_nodes):
        code = "import sys; from atlas_cli.engines.remote.cluster import connected\n"
        code += "with connected(sys.argv[1], 1): pass"
        command = [sys.executable, "-c", code, two_nodes.address]
        environment = {**os.environ, "RAY_AUTH_TOKEN": "f" * 64}
        tried = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert "ConfigError: engine.address: the cluster at" in tried.stderr
        assert "does not take this token; set RAY_AUTH_TOKEN" in tried.stderr
        assert environment["RAY_AUTH_TOKEN"] not in tried.stderr

    def test_a_lost_node_is_done_without(self, make_federation, two_nodes):
        """Its clients are dropped for the round; in the next the process that is left serves all, with equal result."""
        from atlas_cli.engines.remote.ray_engine import RayEngine

        torch.set_num_threads(1)
        off = {"engine": {"fuse": "off", "name": "ray"}}
        rounds = {"training": {"rounds": 3, "local_steps": 4}}
        with connected(two_nodes.address, 1) as ray:
            here = ray.get_runtime_context().get_node_id()  # either of the two, since they have one address
            (other,) = [node for node in two_nodes.list_all_nodes() if node.node_id != here]
            whole = make_federation(**off)
            with RayEngine(whole, ray, lambda note: None) as engine:
                assert len(engine._processes) == 2
                same(run(whole, engine), run(make_federation(engine={"fuse": "off"})))
            federation, notes = make_federation(**off, **rounds), []
            with RayEngine(federation, ray, notes.append) as engine:
                original, calls = engine.start, []

                def start(client, method, *args):
                    calls.append(method)
                    if method == "backward" and calls.count("backward") == 3:
                        other.kill_raylet()
                        time.sleep(5)  # its processes answer for a while yet
                    return original(client, method, *args)

                engine.start = start
                _, lines, _ = run(federation, engine)
                assert len(engine._processes) == 1
        by_round = {line["round"]: line for line in lines if "dropped" in line}
        assert 1 <= len(by_round[1]["dropped"]) <= 2
        assert all("died" in reason for reason in by_round[1]["dropped"].values())
        assert by_round[2]["participants"] == by_round[3]["participants"] == ["a", "b", "c"]
        assert any("going on with 1" in note for note in notes)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nothing_answers():
    with pytest.raises(
        ConfigError, match=r"nothing answers at 127.0.0.1:\d+ .*; start the cluster with ray start --head"
    ):
        connected(f"127.0.0.1:{free_port()}", 1).__enter__()


def test_no_cluster_of_this_machine():
    with pytest.raises(ConfigError, match="no cluster of this machine was found; start one with ray start --head"):
        connected("auto", 1).__enter__()


def test_something_else_answers(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 5)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.0.0.1:\d+ within 5 s"):
            connected(f"127.0.0.1:{server.server_port}", 1).__enter__()
        server.shutdown()


def test_a_folder_of_temporary_files_with_a_long_path(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(ConfigError, match="set RAY_TMPDIR to a folder with a short path"), connected(None, 1):
        pass
