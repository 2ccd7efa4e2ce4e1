"""The audit log as a timeline: told once, neutral and inert, and drawn in several forms."""
