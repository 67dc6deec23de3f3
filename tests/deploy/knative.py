"""Check a KServe predictor as Knative's admission does, with the default feature flags.

KServe copies the predictor's pod spec into a Knative Service. Knative rejects each field that its
masks leave out (knative/serving: pkg/apis/serving/fieldmask.go) and some values
(pkg/apis/serving/k8s_validation.go). The flags that allow more are off by default, except
``kubernetes.podspec-volumes-emptydir`` (pkg/apis/config/features.go).

Read in release-1.13 to release-1.23. What is listed here is allowed in all of them; before 1.13,
nothing could be mounted on /tmp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KSERVE_FIELDS = (
    "batcher canaryTrafficPercent containerConcurrency logger maxReplicas minReplicas scaleMetric"
    " scaleTarget timeout"
)
"""Of a predictor, KServe's own (kserve/kserve: pkg/apis/serving/v1beta1/component.go)."""

PROBE = (
    "exec httpGet tcpSocket initialDelaySeconds timeoutSeconds periodSeconds successThreshold"
    " failureThreshold"
)
MASKS = {
    "": "automountServiceAccountToken containers enableServiceLinks imagePullSecrets"
    " serviceAccountName volumes",
    "containers": "args command env envFrom image imagePullPolicy livenessProbe name ports"
    " readinessProbe resources securityContext terminationMessagePath terminationMessagePolicy"
    " volumeMounts workingDir",
    "containers.env": "name value valueFrom",
    "containers.env.valueFrom": "configMapKeyRef secretKeyRef",
    "containers.livenessProbe": PROBE,
    "containers.ports": "containerPort name protocol",
    "containers.readinessProbe": PROBE,
    "containers.resources": "limits requests",
    "containers.securityContext": "allowPrivilegeEscalation capabilities readOnlyRootFilesystem"
    " runAsGroup runAsNonRoot runAsUser seccompProfile",
    "containers.securityContext.capabilities": "drop",
    "containers.volumeMounts": "mountPath name readOnly subPath",
    "volumes": "configMap emptyDir name projected secret",
}
"""The fields that each mask lets through, by the place in the pod spec."""

RESERVED_ENV = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
RESERVED_PATHS = {"/", "/dev", "/dev/log"}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 8112, 9090, 9091}
"""Ports of queue-proxy, in the same pod (pkg/networking/constants.go); 8008 is for profiling."""

QUIET_S = 30
"""Before our container is told to stop, queue-proxy has seen no request for so long
(``drainSleepDuration``, pkg/queue/sharedmain/main.go). It counts towards the grace period, which is
the revision's timeout (``BuildPodSpec``, pkg/reconciler/revision/resources/deploy.go)."""

MAX_TIMEOUT_S = 600  # ``max-revision-timeout-seconds`` by default (pkg/apis/config/defaults.go)


def problems(predictor: dict[str, Any]) -> list[str]:
    """Return what Knative would reject."""
    pod = {name: value for name, value in predictor.items() if name not in KSERVE_FIELDS.split()}
    [container] = pod["containers"]
    [port] = container["ports"]
    media = {volume["emptyDir"].get("medium") for volume in pod["volumes"] if "emptyDir" in volume}
    rejected = {
        "a token of the service account": pod["automountServiceAccountToken"],
        "a longer timeout": predictor["timeout"] > MAX_TIMEOUT_S,
        "another medium of a volume": media - {None, "Memory"},
        "reserved paths": {each["mountPath"] for each in container["volumeMounts"]}
        & RESERVED_PATHS,
        "reserved variables": {each["name"] for each in container["env"]} & RESERVED_ENV,
        "a port of queue-proxy": port["containerPort"] in RESERVED_PORTS,
        "another name of a port": port["name"] not in {"h2c", "http1"},
    }
    return [*_masked(pod, ""), *(name for name, found in rejected.items() if found)]


def _masked(value: Any, where: str) -> Iterator[str]:
    """Find the fields that no mask lets through."""
    for item in value if isinstance(value, list) else [value]:
        for name in item if isinstance(item, dict) and where in MASKS else ():
            path = f"{where}.{name}".removeprefix(".")
            if name in MASKS[where].split():
                yield from _masked(item[name], path)
            else:
                yield f"{path}: not allowed"
