"""Who runs the tasks of a job: the `Executor` protocol and its implementations."""

from rgals.execution.executor import Block, BlockResult, Executor, Prepare, TaskFunction, WorkerContext
from rgals.execution.in_process import InProcessExecutor

__all__ = ["Block", "BlockResult", "Executor", "InProcessExecutor", "Prepare", "TaskFunction", "WorkerContext"]
