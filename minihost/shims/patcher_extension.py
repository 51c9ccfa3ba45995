"""`comfy.patcher_extension`: what a pack can have called at moments of a run."""


class CallbacksMP:
    ON_CLEANUP = "on_cleanup"
