"""Which of CPython's tests run, by start method: those that need no more than what manycore has.

Tests that move values by Queue, Pipe, Event or Lock need the lent objects of the standard package; those can be inherited by
fork, but not be pickled into a child that manycore starts, so they are selected under fork alone until manycore has its own.
"""

# What needs nothing but Process, Pool and the context functions.
PLAIN = {
    "WithProcessesTestProcess": [
        "test_active_children",
        "test_cpu_count",
        "test_current",
        "test_daemon_argument",
        "test_error_on_stdio_flush_1:fork",
        "test_error_on_stdio_flush_2:fork",
        "test_args_argument:fork",
        "test_child_fd_inflation:fork",
        "test_close:fork",
        "test_forkserver_sigint:fork",
        "test_forkserver_sigkill:fork",
        "test_kill",
        "test_interrupt",
        "test_lose_target_ref:fork",
        "test_many_processes",
        "test_parent_process:fork",
        "test_parent_process_attributes:fork",
        "test_process:fork",
        "test_process_mainthread_native_id:fork",
        "test_recursion:fork",
        "test_sentinel:fork",
        "test_set_executable",
        "test_terminate",
        "test_wait_for_threads:fork",
    ],
    "WithProcessesTestSubclassingProcess": ["test_stderr_flush", "test_sys_exit", "test_subclassing:fork"],
    "WithProcessesTestPool": "*",
    "WithProcessesTestPoolWorkerErrors": "*",
    "WithProcessesTestPoolWorkerLifetime": "*",
    "WithProcessesTestFinalize": ["test_finalize:fork", "test_thread_safety"],
    "TestPoolNotLeakOnFailure": "*",
    "TestNoForkBomb": "*",
    "TestForkAwareThreadLock": ["test_lock:fork"],
    "TestStdinBadfiledescriptor": ["test_pool_in_process", "test_flushing:fork", "test_queue_in_process:fork"],
    "TestStartMethod": [
        "test_context_check_module_types",
        "test_get_all",
        "test_context:none",
        "test_set_get:none",
    ],
    "TestInternalDecorators": "*",
    "_TestImportStar": "*",
    "MiscTestCase": "*",
}


def is_selected(name, method):
    """`name` is Class.test as unittest prints it, without the module."""
    group, _, test = name.partition(".")
    wanted = PLAIN.get(group)
    if wanted is None:
        return False
    if wanted == "*":
        return True
    for entry in wanted:
        entry_name, _, only = entry.partition(":")
        if entry_name == test:
            return only in ("", method)
    return False
