"""The commands stmd, stmgate and stmctl."""
