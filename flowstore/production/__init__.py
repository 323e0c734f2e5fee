"""Flows in production: deployments, their tokens, triggers and schedules."""
