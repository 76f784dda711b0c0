"""Amazon ECS: the launcher, the templates and the cleanup, against moto. A runner executes what RunTask asks for."""
