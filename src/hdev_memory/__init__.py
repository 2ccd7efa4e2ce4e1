"""Plan, review, approve, apply and audit migrations of AI-agent memory."""

__version__ = "0.1.0"
