"""Flux's own layout of source-watcher: a base that inserts arguments, and patches that replace them by position."""

from tests.envtest.client import Object

BASE_PATCH: list[Object] = [
    {
        "op": "add",
        "path": "/spec/template/spec/containers/0/args/0",
        "value": "--events-addr=http://notification-controller.flux-system.svc.cluster.local./",
    },
    {"op": "add", "path": "/spec/template/spec/serviceAccountName", "value": "source-watcher"},
    {"op": "add", "path": "/spec/template/spec/priorityClassName", "value": "system-cluster-critical"},
    {
        "op": "add",
        "path": "/spec/template/spec/containers/0/env/-",
        "value": {
            "name": "GOMEMLIMIT",
            "valueFrom": {"resourceFieldRef": {"containerName": "manager", "resource": "limits.memory"}},
        },
    },
]
"""What Flux does to the published deployment of the controller."""

POSITIONS = {
    0: "--events-addr=http://notification-controller.tenants.svc.example.test./",
    1: "--watch-all-namespaces=false",
    2: "--log-level=debug",
    6: "--storage-adv-addr=source-watcher.$(RUNTIME_NAMESPACE).svc.example.test.",
}
"""What an installation with options replaces, by position."""

INSTALL_PATCH: list[Object] = [
    {"op": "replace", "path": f"/spec/template/spec/containers/0/args/{position}", "value": value}
    for position, value in POSITIONS.items()
]

DEPLOYMENT: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "source-watcher",
        "namespace": "flux-system",
        "labels": {"app.kubernetes.io/component": "source-watcher", "app.kubernetes.io/part-of": "flux"},
    },
    "spec": {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": {"app": "source-watcher"}},
        "template": {
            "metadata": {"labels": {"app": "source-watcher"}},
            "spec": {
                "serviceAccountName": "source-watcher",
                "priorityClassName": "system-cluster-critical",
                "terminationGracePeriodSeconds": 10,
                "securityContext": {"fsGroup": 1337},
                "containers": [
                    {
                        "name": "manager",
                        "image": "registry.test/fluxcd/source-watcher:v2.2.1",
                        "args": [
                            "--events-addr=http://notification-controller.flux-system.svc.cluster.local./",
                            "--watch-all-namespaces=true",
                            "--log-level=info",
                            "--log-encoding=json",
                            "--enable-leader-election",
                            "--storage-path=/data",
                            "--storage-adv-addr=source-watcher.$(RUNTIME_NAMESPACE).svc.cluster.local.",
                        ],
                        "env": [
                            {
                                "name": "RUNTIME_NAMESPACE",
                                "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
                            }
                        ],
                        "ports": [
                            {"name": "http", "containerPort": 9090, "protocol": "TCP"},
                            {"name": "http-prom", "containerPort": 8080, "protocol": "TCP"},
                            {"name": "healthz", "containerPort": 9440, "protocol": "TCP"},
                        ],
                        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "healthz"}},
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                        "securityContext": {
                            "runAsNonRoot": True,
                            "readOnlyRootFilesystem": True,
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "volumeMounts": [
                            {"name": "data", "mountPath": "/data"},
                            {"name": "tmp", "mountPath": "/tmp"},
                        ],
                    }
                ],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
            },
        },
    },
}
"""What Flux has installed in a cluster, as the component `takeover` finds it."""
