"""The reconcile loop: observe, decide, act, report. It knows no Kubernetes client."""
